-- Lists and forms can be drawn: what the metadata names exists.

select
    format('object %s is missing', expected.name) as problem
from unnest(array['company', 'contact', 'deal', 'activity', 'note', 'task']) as expected (name)
left join object_metadata
    on object_metadata.name = expected.name
where object_metadata.name is null

union all

select
    format('object %s has %s fields instead of at least %s', expected.name, count(field_metadata), expected.fields)
from (
    values
        ('company', 6),
        ('contact', 6),
        ('deal', 7),
        ('activity', 4),
        ('note', 2),
        ('task', 4)
) as expected (name, fields)
left join field_metadata
    on field_metadata.object_name = expected.name
group by expected.name, expected.fields
having count(field_metadata) < expected.fields

union all

select
    format('object %s names table %s, which does not exist', object_metadata.name, object_metadata.table_name)
from object_metadata
where to_regclass(quote_ident(object_metadata.table_name)) is null

union all

select
    format('field %s.%s names a column that does not exist', field_metadata.object_name, field_metadata.name)
from field_metadata
join object_metadata
    on object_metadata.name = field_metadata.object_name
where not field_metadata.is_custom
    and to_regclass(quote_ident(object_metadata.table_name)) is not null
    and not exists (
        select
        from pg_attribute
        where attrelid = to_regclass(quote_ident(object_metadata.table_name))
            and attname = field_metadata.name
            and attnum > 0
            and not attisdropped
    )

union all

select
    format('view %s is missing', expected.slug)
from unnest(array['all-companies', 'all-contacts', 'open-deals', 'open-tasks']) as expected (slug)
left join saved_views
    on saved_views.slug = expected.slug
where saved_views.id is null

union all

select
    format('view %s shows %s, which is not a field', saved_views.slug, shown.field)
from saved_views
cross join unnest(saved_views.columns) as shown (field)
left join field_metadata
    on field_metadata.object_name = saved_views.object_name
    and field_metadata.name = shown.field
where saved_views.slug is not null
    and field_metadata.name is null;
