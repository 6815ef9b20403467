-- The roles that users.role may name. A member of any other role gets the default one.

select slug
from roles;
