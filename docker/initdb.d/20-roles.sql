-- Logins of the cluster, after conf/monitor-role.sql; passwords come from the secrets.
\set steward `cat /run/secrets/steward_password`
\set replicator `cat /run/secrets/replicator_password`
\set app `cat /run/secrets/app_password`

ALTER ROLE steward PASSWORD :'steward';

-- Replication, and what pg_rewind asks of the new primary.
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replicator';
GRANT pg_checkpoint TO replicator;
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), pg_read_binary_file(text),
    pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;

CREATE ROLE app LOGIN PASSWORD :'app';
CREATE DATABASE app OWNER app;
