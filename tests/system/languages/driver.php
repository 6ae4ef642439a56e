<?php
// PHP's two ways to PostgreSQL: each check prints its name when it has passed, the first that fails ends the program.

error_reporting(E_ALL);
[, $port, $table] = $argv;
$dsn = "host=127.0.0.1 port=$port user=app password=app dbname=bench";

function check(string $name, callable $body): void
{
    $body();
    echo $name, "\n";
}

function expect(mixed $expected, mixed $found): void
{
    if ($expected !== $found) {
        fwrite(STDERR, 'expected ' . var_export($expected, true) . ', found ' . var_export($found, true) . "\n" . (new Exception)->getTraceAsString() . "\n");
        exit(1);
    }
}

/** The SQLSTATE of a statement that must fail. */
function failure($connection, string $sql): ?string
{
    pg_send_query($connection, $sql);
    return pg_result_error_field(pg_get_result($connection), PGSQL_DIAG_SQLSTATE);
}

function value($connection, string $sql): ?string
{
    return pg_fetch_result(pg_query($connection, $sql), 0, 0);
}

$connection = pg_connect($dsn, PGSQL_CONNECT_FORCE_NEW);
check('connects', fn() => expect('app', value($connection, 'select current_user')));

check('prepares', function () use ($connection, $table) {
    pg_prepare($connection, 'insert', "insert into $table (v) values ($1)");
    pg_prepare($connection, 'select', "select v from $table where v = $1");
    for ($number = 0; $number < 30; $number++) {
        expect(1, pg_affected_rows(pg_execute($connection, 'insert', ["p$number"])));
        expect([["v" => "p$number"]], pg_fetch_all(pg_execute($connection, 'select', ["p$number"])));
        expect("$number", pg_fetch_result(pg_query_params($connection, 'select $1::int', [$number]), 0, 0));
    }
});

check('prepares by PDO', function () use ($port, $table) {
    $pdo = new PDO("pgsql:host=127.0.0.1;port=$port;dbname=bench", 'app', 'app', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
    for ($round = 0; $round < 20; $round++) {
        $insert = $pdo->prepare("insert into $table (v) values (:v) returning id");
        $insert->execute(['v' => "pdo$round"]);
        $id = $insert->fetchColumn();
        $pdo->beginTransaction();
        $update = $pdo->prepare("update $table set v = ? where id = ?");
        $update->execute(["lost$round", $id]);
        expect(1, $update->rowCount());
        $pdo->rollBack();
        $select = $pdo->prepare("select v from $table where id = ?");
        $select->execute([$id]);
        expect("pdo$round", $select->fetchColumn());
    }
    try {
        $pdo->exec("insert into $table (id) values ($id)");
        expect('an exception', 'none');
    } catch (PDOException $refused) {
        expect('23505', $refused->getCode());
    }
    expect($id, (int) $pdo->query("select id from $table where v = 'pdo19'")->fetchColumn());
});

check('commits and rolls back', function () use ($connection, $table) {
    pg_query($connection, 'begin');
    pg_query($connection, "insert into $table (v) values ('kept')");
    pg_query($connection, 'savepoint here');
    pg_query($connection, "insert into $table (v) values ('undone')");
    pg_query($connection, 'rollback to here');
    expect(PGSQL_TRANSACTION_INTRANS, pg_transaction_status($connection));
    pg_query($connection, 'commit');
    expect('1', value($connection, "select count(*) from $table where v in ('kept', 'undone')"));
});

check('is told of errors', function () use ($connection, $table) {
    expect('42P01', failure($connection, 'select * from there_is_no_such_table'));
    expect('23505', failure($connection, "insert into $table (id) select id from $table limit 1"));
    pg_query($connection, 'begin');
    expect('22012', failure($connection, 'select 1 / 0'));
    expect('25P02', failure($connection, 'select 1'));
    pg_query($connection, 'rollback');
    expect('1', value($connection, 'select 1'));
});

check('reads by portions', function () use ($connection) {
    pg_query($connection, 'begin');
    pg_query($connection, 'declare reader cursor for select g from generate_series(1, 1000) g');
    $sum = 0;
    while ($rows = pg_fetch_all_columns(pg_query($connection, 'fetch 70 from reader'))) {
        $sum += array_sum($rows);
    }
    pg_query($connection, 'commit');
    expect(500500, $sum);
});

check('copies', function () use ($connection, $table) {
    $rows = array_map(fn($number) => (1000000 + $number) . "\tc$number\n", range(1, 2000));
    expect(true, pg_copy_from($connection, $table, $rows));
    $found = array_values(array_filter(pg_copy_to($connection, $table), fn($row) => str_contains($row, "\tc")));
    expect($rows, $found);
});

check('listens', function () use ($connection, $dsn, $table) {
    pg_query($connection, "listen $table");
    $other = pg_connect($dsn, PGSQL_CONNECT_FORCE_NEW);
    pg_query($other, "notify $table, 'heard'");
    pg_close($other);
    for ($until = microtime(true) + 10; !($notification = pg_get_notify($connection)) && microtime(true) < $until;) {
        usleep(20000);
    }
    expect("$table heard", $notification ? "{$notification['message']} {$notification['payload']}" : 'nothing');
    pg_query($connection, 'unlisten *');
});

check('cancels', function () use ($connection) {
    pg_send_query($connection, 'select pg_sleep(30)');
    usleep(500000);
    expect(true, pg_cancel_query($connection));
    pg_send_query_params($connection, 'select $1::int', [7]);
    expect('7', pg_fetch_result(pg_get_result($connection), 0, 0));
    while (pg_get_result($connection)) {
    }
});
