//! The configuration that the test gives to the monitor.

use std::time::Duration;

use forebay::config::model as conf;

pub fn config(ports: &[u16], user: &str, check_interval: Duration) -> conf::Postgres {
    let node = |(index, &port): (usize, &u16)| conf::Node {
        name: format!("pg{}", index + 1),
        host: "127.0.0.1".to_owned(),
        port,
        weight: 1,
        role: conf::NodeRole::Auto,
        promote: true,
    };
    conf::Postgres {
        listen: Vec::new(),
        max_clients: 100,
        auth: conf::AuthMethod::Trust,
        pool: conf::PoolSettings {
            mode: conf::PoolMode::Transaction,
            size: 1,
            min_size: 0,
            reserve_size: 0,
            reserve_after: Duration::ZERO,
            queue_timeout: None,
            queue_length: None,
            queue_notice: None,
            connect_timeout: Duration::from_secs(1),
            server_idle_timeout: None,
            server_lifetime: None,
            client_login_timeout: None,
            client_idle_timeout: None,
            query_timeout: None,
            transaction_timeout: None,
            idle_in_transaction_timeout: None,
            prepared_statements: 1,
        },
        routing: conf::RoutingSettings {
            split: true,
            consistency: conf::Consistency::Session,
            max_lag: Some(Duration::from_secs(3)),
            max_lag_bytes: None,
            balance: conf::Balance::LeastConnections,
            read_functions: Vec::new(),
            write_functions: Vec::new(),
        },
        failover: conf::Failover {
            mode: conf::FailoverMode::Follow,
            durability: conf::Durability::Bounded,
            max_lost_bytes: 0,
            check_interval,
            check_timeout: Duration::from_secs(2),
            hold: Duration::from_secs(1),
            drain: Duration::from_secs(1),
            commit_resolution: false,
            txn_loss_close: true,
            fence_command: Vec::new(),
            validate_command: Vec::new(),
            rejoin_command: Vec::new(),
            event_command: Vec::new(),
            demote_method: conf::DemoteMethod::Nobody,
            demote_command: Vec::new(),
        },
        clusters: vec![conf::Cluster {
            name: "main".to_owned(),
            nodes: ports.iter().enumerate().map(node).collect(),
            monitor_user: user.to_owned(),
            monitor_password: conf::Secret::default(),
            monitor_database: "postgres".to_owned(),
        }],
        databases: Vec::new(),
        users: Vec::new(),
    }
}
