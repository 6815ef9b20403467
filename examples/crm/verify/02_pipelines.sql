-- A deal can be opened, won and lost.

select
    format('pipeline %s is missing', expected.slug) as problem
from unnest(array['sales', 'renewals']) as expected (slug)
left join pipelines
    on pipelines.slug = expected.slug
where pipelines.slug is null

union all

select
    format('stage %s of pipeline %s is missing', expected.slug, expected.pipeline_slug)
from (
    values
        ('sales', 'lead', 'open'),
        ('sales', 'qualified', 'open'),
        ('sales', 'proposal', 'open'),
        ('sales', 'negotiation', 'open'),
        ('sales', 'won', 'won'),
        ('sales', 'lost', 'lost'),
        ('renewals', 'upcoming', 'open'),
        ('renewals', 'contacted', 'open'),
        ('renewals', 'quoted', 'open'),
        ('renewals', 'renewed', 'won'),
        ('renewals', 'churned', 'lost')
) as expected (pipeline_slug, slug, kind)
join pipelines
    on pipelines.slug = expected.pipeline_slug
left join stages
    on stages.pipeline_id = pipelines.id
    and stages.slug = expected.slug
    and stages.kind = expected.kind
where stages.id is null

union all

select
    'no pipeline is the default one'
where not exists (
    select
    from pipelines
    where is_default
);
