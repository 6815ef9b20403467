select slug from roles;
