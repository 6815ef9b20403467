-- Form keys: API keys that stand in a web page, and can do nothing but ask for a registration.
-- Owner: src/api_keys/

alter table api_keys
    add column origins text[],
    -- each branch is never null: null would pass
    add constraint api_keys_form_check check (
        case
            when origins is null then not scopes @> array['registrations:submit']
            else
                cardinality(origins) > 0
                and array_position(origins, null) is null
                and scopes = array['registrations:submit']
        end
    );

comment on column api_keys.origins is 'Of a form key: the origins whose pages may use it, as browsers write them; absent for every other key';
