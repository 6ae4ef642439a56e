// JDBC as an application uses it: each check prints its name when it has passed, the first that fails ends the program.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

public class Driver {
    static Connection connection;
    static String table;

    interface Body {
        void run() throws Exception;
    }

    static void check(String name, Body body) throws Exception {
        body.run();
        System.out.println(name);
    }

    static void expect(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    /** The SQLSTATE of what must fail. */
    static String failure(Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException refused) {
            return refused.getSQLState();
        }
        return "none";
    }

    static String value(String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void run(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + arguments[0] + "/bench";
        table = arguments[1];
        connection = DriverManager.getConnection(url, "app", "app");
        check("connects", () -> expect("app", value("select current_user")));
        check("prepares", Driver::prepares);
        check("batches", Driver::batches);
        check("commits and rolls back", Driver::transactions);
        check("is told of errors", Driver::errors);
        check("reads by portions", Driver::portions);
        check("copies", Driver::copies);
        check("sees a changed table", Driver::change);
        check("listens", () -> listens(url));
        check("cancels", Driver::cancels);
        connection.close();
    }

    // The driver makes a named statement of it at the fifth execution, and asks for binary values then.
    static void prepares() throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("insert into " + table + " (v) values (?)");
             PreparedStatement select = connection.prepareStatement("select id, v from " + table + " where v = ?")) {
            for (int number = 0; number < 30; number++) {
                insert.setString(1, "p" + number);
                expect(1, insert.executeUpdate());
                select.setString(1, "p" + number);
                try (ResultSet rows = select.executeQuery()) {
                    expect(true, rows.next());
                    expect("p" + number, rows.getString("v"));
                    expect(false, rows.next());
                }
            }
        }
    }

    static void batches() throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement("insert into " + table + " (v) values (?)")) {
            for (int number = 0; number < 500; number++) {
                insert.setString(1, "b" + number);
                insert.addBatch();
            }
            expect(500, insert.executeBatch().length);
        }
        expect("500", value("select count(*) from " + table + " where v like 'b%'"));
    }

    static void transactions() throws Exception {
        connection.setAutoCommit(false);
        run("insert into " + table + " (v) values ('kept')");
        Savepoint savepoint = connection.setSavepoint();
        run("insert into " + table + " (v) values ('undone')");
        connection.rollback(savepoint);
        connection.commit();
        run("insert into " + table + " (v) values ('undone')");
        connection.rollback();
        connection.setReadOnly(true);
        expect("1/0", value("select count(*) filter (where v = 'kept') || '/' || count(*) filter (where v = 'undone') from " + table));
        expect("25006", failure(() -> run("insert into " + table + " (v) values ('never')")));
        connection.rollback();
        connection.setReadOnly(false);
        connection.setAutoCommit(true);
    }

    static void errors() throws Exception {
        expect("42P01", failure(() -> value("select * from there_is_no_such_table")));
        expect("23505", failure(() -> run("insert into " + table + " (id) select id from " + table + " limit 1")));
        connection.setAutoCommit(false);
        expect("22012", failure(() -> value("select 1 / 0")));
        expect("25P02", failure(() -> value("select 1")));
        connection.rollback();
        connection.setAutoCommit(true);
        expect("1", value("select 1"));
    }

    static void portions() throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement select = connection.prepareStatement("select g from generate_series(1, 1000) g")) {
            select.setFetchSize(70);
            long sum = 0;
            try (ResultSet rows = select.executeQuery()) {
                while (rows.next()) {
                    sum += rows.getLong(1);
                }
            }
            expect(500500L, sum);
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void copies() throws Exception {
        var copy = connection.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder lines = new StringBuilder();
        for (int number = 0; number < 2000; number++) {
            lines.append("c").append(number).append('\n');
        }
        expect(2000L, copy.copyIn("copy " + table + " (v) from stdin", new StringReader(lines.toString())));
        StringWriter out = new StringWriter();
        copy.copyOut("copy (select v from " + table + " where v like 'c%' order by id) to stdout", out);
        expect(lines.toString(), out.toString());
        expect("22P04", failure(() -> copy.copyIn("copy " + table + " (v) from stdin", new StringReader("a\tb\n"))));
    }

    static void change() throws SQLException {
        try (PreparedStatement select = connection.prepareStatement("select * from " + table + " where v = ?")) {
            for (int number = 0; number < 10; number++) {
                select.setString(1, "kept");
                try (ResultSet rows = select.executeQuery()) {
                    rows.next();
                    expect(number < 8 ? 2 : 3, rows.getMetaData().getColumnCount());
                    expect("kept", rows.getString("v"));
                }
                if (number == 7) {
                    run("alter table " + table + " add column more int default 7");
                }
            }
        }
    }

    static void listens(String url) throws SQLException {
        run("listen " + table);
        try (Connection other = DriverManager.getConnection(url, "app", "app"); Statement notify = other.createStatement()) {
            notify.execute("notify " + table + ", 'heard'");
        }
        PGNotification[] notifications = connection.unwrap(PGConnection.class).getNotifications(10_000);
        expect(1, notifications.length);
        expect(table + " heard", notifications[0].getName() + " " + notifications[0].getParameter());
        run("unlisten *");
    }

    static void cancels() throws Exception {
        try (Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(500);
                    statement.cancel();
                } catch (Exception problem) {
                    problem.printStackTrace();
                }
            });
            canceller.start();
            expect("57014", failure(() -> statement.executeQuery("select pg_sleep(30)")));
            canceller.join();
            statement.setQueryTimeout(1);
            expect("57014", failure(() -> statement.executeQuery("select pg_sleep(30)")));
        }
        expect("1", value("select 1"));
    }
}
