// lib/pq as an application uses it: each check prints its name when it has passed, the first that fails ends the program.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/lib/pq"
)

var (
	db    *sql.DB
	dsn   string
	table string
)

func check(name string, body func()) {
	body()
	fmt.Println(name)
}

func expect(expected, found interface{}) {
	if expected != found {
		panic(fmt.Sprintf("expected %v, found %v", expected, found))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// The SQLSTATE of what must have failed.
func state(err error) string {
	var refused *pq.Error
	if errors.As(err, &refused) {
		return string(refused.Code)
	}
	return fmt.Sprint(err)
}

func value(sql string, arguments ...interface{}) (found string) {
	must(db.QueryRow(sql, arguments...).Scan(&found))
	return
}

func run(sql string) {
	_, err := db.Exec(sql)
	must(err)
}

func main() {
	dsn = fmt.Sprintf("host=127.0.0.1 port=%s user=app password=app dbname=bench sslmode=disable", os.Args[1])
	table = os.Args[2]
	var err error
	db, err = sql.Open("postgres", dsn)
	must(err)
	check("connects", func() { expect("app", value("select current_user")) })
	check("prepares", prepares)
	check("commits and rolls back", transactions)
	check("is told of errors", failures)
	check("copies", copies)
	check("listens", listens)
	check("cancels", cancels)
}

// The pool of database/sql prepares a statement on each connection where it is used.
func prepares() {
	insert, err := db.Prepare("insert into " + table + " (v) values ($1)")
	must(err)
	query, err := db.Prepare("select v from " + table + " where v = $1")
	must(err)
	done := make(chan error)
	for worker := 0; worker < 5; worker++ {
		go func(worker int) {
			for number := 0; number < 20; number++ {
				text := fmt.Sprintf("p%d-%d", worker, number)
				if _, err := insert.Exec(text); err != nil {
					done <- err
					return
				}
				var found string
				if err := query.QueryRow(text).Scan(&found); err != nil || found != text {
					done <- fmt.Errorf("expected %s, found %s, %v", text, found, err)
					return
				}
			}
			done <- nil
		}(worker)
	}
	for worker := 0; worker < 5; worker++ {
		must(<-done)
	}
	must(insert.Close())
	must(query.Close())
	for number := 0; number < 20; number++ {
		expect(fmt.Sprint(number), value("select $1::int", number))
	}
}

func transactions() {
	transaction, err := db.Begin()
	must(err)
	for _, statement := range []string{
		"insert into " + table + " (v) values ('kept')", "savepoint here",
		"insert into " + table + " (v) values ('undone')", "rollback to here",
	} {
		_, err = transaction.Exec(statement)
		must(err)
	}
	must(transaction.Commit())
	transaction, err = db.Begin()
	must(err)
	_, err = transaction.Exec("insert into "+table+" (v) values ($1)", "undone")
	must(err)
	must(transaction.Rollback())
	expect("1", value("select count(*) from "+table+" where v in ('kept', 'undone')"))
	transaction, err = db.BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
	must(err)
	_, err = transaction.Exec("insert into " + table + " (v) values ('never')")
	expect("25006", state(err))
	must(transaction.Rollback())
}

func failures() {
	_, err := db.Exec("select * from there_is_no_such_table")
	expect("42P01", state(err))
	_, err = db.Exec("insert into " + table + " (id) select id from " + table + " limit 1")
	expect("23505", state(err))
	transaction, err := db.Begin()
	must(err)
	_, err = transaction.Exec("select 1 / $1::int", 0)
	expect("22012", state(err))
	_, err = transaction.Exec("select 1")
	expect("25P02", state(err))
	must(transaction.Rollback())
	expect("1", value("select 1"))
}

func copies() {
	transaction, err := db.Begin()
	must(err)
	statement, err := transaction.Prepare(pq.CopyIn(table, "v"))
	must(err)
	for number := 0; number < 2000; number++ {
		_, err = statement.Exec(fmt.Sprintf("c%d", number))
		must(err)
	}
	_, err = statement.Exec()
	must(err)
	must(statement.Close())
	must(transaction.Commit())
	expect("2000", value("select count(*) from "+table+" where v like 'c%'"))
}

func listens() {
	listener := pq.NewListener(dsn, 10*time.Millisecond, time.Second, nil)
	must(listener.Listen(table))
	run("notify " + table + ", 'heard'")
	select {
	case notification := <-listener.Notify:
		expect(table+" heard", notification.Channel+" "+notification.Extra)
	case <-time.After(10 * time.Second):
		panic("nothing was heard")
	}
	must(listener.Close())
}

func cancels() {
	for _, statement := range []string{"select pg_sleep(30)", "select pg_sleep($1)"} {
		within, stop := context.WithTimeout(context.Background(), 500*time.Millisecond)
		var err error
		begun := time.Now()
		if statement == "select pg_sleep(30)" {
			_, err = db.ExecContext(within, statement)
		} else {
			_, err = db.ExecContext(within, statement, 30)
		}
		stop()
		expect("57014", state(err))
		if time.Since(begun) > 10*time.Second {
			panic("it was not cancelled")
		}
	}
	expect("1", value("select 1"))
}
