-- The login with which Forebay watches the nodes and changes the primary, without a superuser's rights: PostgreSQL 15
-- and newer. Run it on the primary, in the database that monitor_database names (postgres unless set):
--
--   psql -d postgres -f conf/monitor-role.sql
--   psql -d postgres -c '\password steward'
--
-- The tests of failovers run with exactly these rights. What each is for: docs/security.md, "The login at the servers".

CREATE ROLE steward LOGIN REPLICATION;
GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO steward;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name, default_transaction_read_only TO steward;
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf(), pg_wal_replay_resume() TO steward;
