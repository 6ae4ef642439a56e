//! What is known of PostgreSQL's own functions, views, operators and settings without asking a server.
//!
//! Owns the lists and how they are searched. They answer three questions: what may run on a replica although it is
//! marked volatile, what must not although it is not, and what may be called a read before a catalog was loaded.

/// Volatile by PostgreSQL's book, yet they neither write nor tell one node from another. They count as reads when
/// PostgreSQL or a C library defines them, not when somebody's own SQL does.
pub const HARMLESS: &[&str] = &[
    "armor",
    "bernoulli",
    "clock_timestamp",
    "current_query",
    "dearmor",
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "normal_rand",
    "pg_collation_actual_version",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "random",
    "random_normal",
    "system",
    "system_rows",
    "system_time",
    "timeofday",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuidv4",
    "uuidv7",
];

/// Functions that must run on the primary whatever their volatility says: they change something, tell about the node
/// or the transaction that runs them, or run text that nobody has read.
pub const PRIMARY_ONLY: &[&str] = &[
    "connectby",
    "crosstab",
    "crosstab2",
    "crosstab3",
    "crosstab4",
    "currval",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "inet_server_addr",
    "inet_server_port",
    "lastval",
    "loread",
    "lowrite",
    "nextval",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_backend_pid",
    "pg_cancel_backend",
    "pg_conf_load_time",
    "pg_config",
    "pg_current_snapshot",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_cursor",
    "pg_export_snapshot",
    "pg_get_replication_slots",
    "pg_is_in_recovery",
    "pg_listening_channels",
    "pg_notification_queue_usage",
    "pg_notify",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_promote",
    "pg_relation_filenode",
    "pg_relation_filepath",
    "pg_reload_conf",
    "pg_sequence_last_value",
    "pg_settings_get_flags",
    "pg_show_all_settings",
    "pg_switch_wal",
    "pg_tablespace_location",
    "pg_terminate_backend",
    "pg_trigger_depth",
    "pg_walfile_name",
    "pg_walfile_name_offset",
    "pg_xact_status",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "set_config",
    "setseed",
    "setval",
    "ts_rewrite",
    "ts_stat",
    "xpath_table",
];

/// Beginnings of names of the same kind, for functions of `pg_catalog`.
const PRIMARY_ONLY_PREFIXES: &[&str] = &[
    "binary_upgrade_",
    "lo_",
    "pg_advisory_",
    "pg_control_",
    "pg_create_",
    "pg_current_wal_",
    "pg_current_xact",
    "pg_last_wal_",
    "pg_last_xact_",
    "pg_logical_",
    "pg_ls_",
    "pg_read_",
    "pg_replication_",
    "pg_stat_",
    "pg_try_advisory_",
    "pg_wal_replay_",
    "txid_",
];

/// Whether the function `schema.name` must run on the primary whatever its volatility says.
pub fn is_primary_only(schema: &str, name: &str) -> bool {
    PRIMARY_ONLY.binary_search(&name).is_ok()
        || name.starts_with("dblink")
        || schema == "pg_catalog" && PRIMARY_ONLY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether the volatile function `name`, not written in SQL or a procedural language, may still run on a replica.
pub fn is_harmless(name: &str) -> bool {
    HARMLESS.binary_search(&name).is_ok()
}

/// Views of PostgreSQL and its extensions that show the state of one node.
pub const NODE_RELATIONS: &[&str] = &[
    "pg_aios",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_backend_memory_contexts",
    "pg_buffercache",
    "pg_config",
    "pg_cursors",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_statements",
    "pg_prepared_xacts",
    "pg_replication_origin_status",
    "pg_replication_slots",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_allocations",
    "pg_shmem_allocations_numa",
];

/// Whether an identifier, in any case, belongs to a family of views about one node or to the temporary schema.
pub fn is_node_relation_family(name: &[u8]) -> bool {
    const FAMILIES: [&[u8]; 4] = [b"pg_stat_", b"pg_statio_", b"pg_temp_", b"pg_toast_temp_"];
    let Some([b'p' | b'P', b'g' | b'G', b'_']) = name.get(..3) else {
        return false;
    };
    name.eq_ignore_ascii_case(b"pg_temp")
        || FAMILIES.iter().any(|family| name.get(..family.len()).is_some_and(|n| n.eq_ignore_ascii_case(family)))
}

/// Settings whose value is the session's or the cluster's, so that any node may answer `SHOW`.
const SHARED_SETTINGS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "constraint_exclusion",
    "datestyle",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "integer_datetimes",
    "intervalstyle",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "max_identifier_length",
    "quote_all_identifiers",
    "role",
    "row_security",
    "search_path",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_timeout",
    "xmlbinary",
    "xmloption",
];

/// Whether any node may be asked for this setting. `name` is in lower case; a dot marks the application's own.
pub fn is_shared_setting(name: &str) -> bool {
    name.contains('.') || SHARED_SETTINGS.binary_search(&name).is_ok()
}

/// PostgreSQL's own operators, for as long as no catalog tells them.
pub const OPERATORS: &[&str] = &[
    "!~", "!~*", "!~~", "!~~*", "#", "##", "#-", "#>", "#>>", "%", "&", "&&", "&<", "&<|", "&>", "*", "+", "-", "->",
    "->>", "-|-", "/", "<", "<->", "<<", "<<=", "<<|", "<=", "<>", "<@", "<^", "=", "=>", ">", ">=", ">>", ">>=", ">^",
    "?", "?#", "?&", "?-", "?-|", "?|", "?||", "@", "@-@", "@>", "@?", "@@", "@@@", "^", "^@", "|", "|&>", "|/", "|>>",
    "||", "||/", "~", "~*", "~<=~", "~<~", "~=", "~>=~", "~>~", "~~", "~~*", "!=",
];

/// Functions that are reads in every installation, for as long as no catalog tells them. Short on purpose: only what
/// applications call every day.
#[rustfmt::skip]
pub const COMMON_READS: &[&str] = &[
    // Aggregates and window functions.
    "array_agg", "avg", "bit_and", "bit_or", "bool_and", "bool_or", "corr", "count", "covar_pop", "covar_samp",
    "cume_dist", "dense_rank", "every", "first_value", "json_agg", "json_object_agg", "jsonb_agg", "jsonb_object_agg",
    "lag", "last_value", "lead", "max", "min", "mode", "nth_value", "ntile", "percent_rank", "percentile_cont",
    "percentile_disc", "range_agg", "rank", "row_number", "stddev", "stddev_pop", "stddev_samp", "string_agg", "sum",
    "var_pop", "var_samp", "variance", "xmlagg",
    // Text.
    "ascii", "btrim", "char_length", "character_length", "chr", "concat", "concat_ws", "convert_from", "convert_to",
    "decode", "encode", "format", "initcap", "left", "length", "like", "lower", "lpad", "ltrim", "md5", "notlike", "overlay", "substring",
    "octet_length", "parse_ident", "quote_ident", "quote_literal", "quote_nullable", "regexp_count", "regexp_like",
    "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array", "regexp_split_to_table",
    "regexp_substr", "repeat", "replace", "reverse", "right", "rpad", "rtrim", "sha224", "sha256", "sha384", "sha512",
    "split_part", "starts_with", "strpos", "substr", "to_ascii", "to_char", "to_date", "to_hex", "to_number",
    "to_timestamp", "translate", "unistr", "upper",
    // Numbers.
    "abs", "acos", "asin", "atan", "atan2", "cbrt", "ceil", "ceiling", "cos", "cot", "degrees", "div", "exp",
    "factorial", "floor", "gcd", "lcm", "ln", "log", "log10", "mod", "pi", "pow", "power", "radians", "round", "scale",
    "sign", "sin", "sqrt", "tan", "trunc", "width_bucket", "num_nonnulls", "num_nulls",
    // Time.
    "age", "date", "date_bin", "date_part", "date_trunc", "isfinite", "justify_days", "justify_hours",
    "justify_interval", "make_date", "make_interval", "make_time", "make_timestamp", "make_timestamptz", "now",
    "overlaps", "statement_timestamp", "timezone", "transaction_timestamp",
    // Arrays and ranges.
    "array_append", "array_cat", "array_dims", "array_fill", "array_length", "array_lower", "array_ndims",
    "array_position", "array_positions", "array_prepend", "array_remove", "array_replace", "array_to_json",
    "array_to_string", "array_upper", "cardinality", "daterange", "generate_series", "generate_subscripts",
    "int4range", "int8range", "isempty", "lower_inc", "lower_inf", "numrange", "range_merge", "string_to_array",
    "string_to_table", "trim_array", "tsrange", "tstzrange", "unnest", "upper_inc", "upper_inf",
    // JSON and XML.
    "json_array_elements", "json_array_elements_text", "json_array_length", "json_build_array", "json_build_object",
    "json_each", "json_each_text", "json_extract_path", "json_extract_path_text", "json_object", "json_object_keys",
    "json_populate_record", "json_populate_recordset", "json_strip_nulls", "json_to_record", "json_to_recordset",
    "json_typeof", "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array",
    "jsonb_build_object", "jsonb_each", "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text",
    "jsonb_insert", "jsonb_object", "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_populate_record", "jsonb_populate_recordset",
    "jsonb_pretty", "jsonb_set", "jsonb_set_lax", "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset",
    "jsonb_typeof", "row_to_json", "to_json", "to_jsonb", "xpath", "xpath_exists",
    // Search.
    "phraseto_tsquery", "plainto_tsquery", "setweight", "to_tsquery", "to_tsvector", "ts_headline", "ts_rank",
    "ts_rank_cd", "websearch_to_tsquery",
    // The session and the catalog.
    "col_description", "current_database", "current_schema", "current_schemas", "current_setting", "format_type",
    "has_any_column_privilege", "has_column_privilege", "has_database_privilege", "has_function_privilege",
    "has_schema_privilege", "has_sequence_privilege", "has_table_privilege", "obj_description", "pg_char_to_encoding",
    "pg_client_encoding", "pg_column_size", "pg_encoding_to_char", "pg_function_is_visible", "pg_get_constraintdef",
    "pg_get_expr", "pg_get_function_arguments", "pg_get_function_identity_arguments", "pg_get_function_result",
    "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords", "pg_get_partkeydef", "pg_get_ruledef",
    "pg_get_serial_sequence", "pg_get_triggerdef", "pg_get_userbyid", "pg_get_viewdef", "pg_has_role",
    "pg_size_pretty", "pg_table_is_visible", "pg_type_is_visible", "pg_typeof", "shobj_description", "to_regclass",
    "to_regnamespace", "to_regproc", "to_regtype", "version",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searched_lists_are_sorted() {
        for list in [HARMLESS, PRIMARY_ONLY, SHARED_SETTINGS] {
            assert!(list.is_sorted(), "binary search needs order: {list:?}");
        }
    }

    #[test]
    fn no_function_is_both_a_read_and_primary_only() {
        for name in COMMON_READS.iter().chain(HARMLESS) {
            assert!(!is_primary_only("pg_catalog", name), "{name}");
        }
    }
}
