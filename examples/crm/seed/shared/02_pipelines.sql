-- Two pipelines to begin with. What a tenant has changed since is left as it is.

insert into pipelines (slug, name, position, is_default)
values
    ('sales', 'Sales', 1, true),
    ('renewals', 'Renewals', 2, false)
on conflict (slug) do nothing;

insert into stages (pipeline_id, slug, name, position, kind, probability)
select
    pipelines.id,
    stage.slug,
    stage.name,
    stage.position,
    stage.kind,
    stage.probability
from (
    values
        ('sales', 'lead', 'Lead', 1, 'open', 10),
        ('sales', 'qualified', 'Qualified', 2, 'open', 25),
        ('sales', 'proposal', 'Proposal sent', 3, 'open', 50),
        ('sales', 'negotiation', 'Negotiation', 4, 'open', 75),
        ('sales', 'won', 'Won', 5, 'won', 100),
        ('sales', 'lost', 'Lost', 6, 'lost', 0),
        ('renewals', 'upcoming', 'Upcoming', 1, 'open', 60),
        ('renewals', 'contacted', 'Contacted', 2, 'open', 70),
        ('renewals', 'quoted', 'Quoted', 3, 'open', 85),
        ('renewals', 'renewed', 'Renewed', 4, 'won', 100),
        ('renewals', 'churned', 'Churned', 5, 'lost', 0)
) as stage (pipeline_slug, slug, name, position, kind, probability)
join pipelines
    on pipelines.slug = stage.pipeline_slug
on conflict (pipeline_id, slug) do nothing;
