-- From 18 on a server keeps each NOT NULL as a constraint, too, with a name that an upgrade of the server may give
-- anew: it is compared as what its column says, and templates that were recorded with it are built anew.
-- Owner: src/provisioning/

update templates set details = null, full_fingerprint = null;
