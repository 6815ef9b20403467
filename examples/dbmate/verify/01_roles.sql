select 'there are no roles' as problem
where not exists (select from roles);
