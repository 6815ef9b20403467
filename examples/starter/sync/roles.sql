-- The roles that this database knows. A member of any other role gets members.default_role.

select slug
from roles;
