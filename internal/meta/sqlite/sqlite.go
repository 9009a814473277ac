// Package sqlite is the embedded metadata store: one SQLite file that any
// number of processes on one machine share.
//
// The database runs in WAL mode with synchronous=FULL, so a commit is durable
// when it is answered. Commits are immediate transactions: they wait for the
// write lock up to a bound and then answer ErrBusy. No read transaction
// outlives a call. Attributes are stored as JSON that a person can read.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/varvelog/varve/internal/meta"
)

const (
	busyTimeoutMs = 2000
	openRetry     = 5 * time.Millisecond
	readers       = 2 // connections that read at a time
	pageLimit     = 1000
)

const schema = `CREATE TABLE IF NOT EXISTS items (
	pk TEXT NOT NULL, sk TEXT NOT NULL, version INTEGER NOT NULL, commit_id TEXT NOT NULL, attrs TEXT NOT NULL,
	PRIMARY KEY (pk, sk)) WITHOUT ROWID`

// Store is an open database. Close it.
type Store struct {
	write, read    *sql.DB
	get, up, down  *sql.Stmt // on read: one item; a page, ascending and descending
	look, put, del *sql.Stmt // on write, within a commit
}

// Open opens the database at path and makes it where there is none.
func Open(ctx context.Context, path string) (*Store, error) {
	s := new(Store)
	var err error
	if s.write, err = open(path, "immediate", 1); err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	if err = s.create(ctx); err == nil {
		s.read, err = open(path, "deferred", readers)
	}
	if err == nil {
		err = s.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", path, err), s.Close())
	}
	return s, nil
}

func open(path, txlock string, conns int) (*sql.DB, error) {
	q := url.Values{"_txlock": {txlock}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeoutMs),
		"journal_mode(WAL)", "synchronous(FULL)", "cache_size(-1024)", "temp_store(MEMORY)",
	}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// create makes the table. Processes that open a new database at the same time
// meet each other's switch to WAL mode, for which SQLite does not wait by itself.
func (s *Store) create(ctx context.Context) error {
	for {
		_, err := s.write.ExecContext(ctx, schema)
		if !isBusy(err) {
			return err
		}
		select {
		case <-time.After(openRetry):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

func (s *Store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		db   *sql.DB
		text string
	}{
		{&s.get, s.read, "SELECT version, commit_id, attrs FROM items WHERE pk=? AND sk=?"},
		{&s.up, s.read, "SELECT sk, version, commit_id, attrs FROM items WHERE pk=? AND sk>=? AND sk<? ORDER BY sk LIMIT ?"},
		{&s.down, s.read, "SELECT sk, version, commit_id, attrs FROM items WHERE pk=? AND sk>=? AND sk<? ORDER BY sk DESC LIMIT ?"},
		{&s.look, s.write, "SELECT version, commit_id FROM items WHERE pk=? AND sk=?"},
		{&s.put, s.write, "INSERT OR REPLACE INTO items VALUES (?,?,?,?,?)"},
		{&s.del, s.write, "DELETE FROM items WHERE pk=? AND sk=?"},
	} {
		var err error
		if *p.stmt, err = p.db.PrepareContext(ctx, p.text); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the database. Calls under way end first.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key meta.Key) (meta.Item, error) {
	item := meta.Item{Key: key}
	var attrs string
	err := s.get.QueryRowContext(ctx, key.PK, key.SK).Scan(&item.Version, &item.CommitID, &attrs)
	if errors.Is(err, sql.ErrNoRows) {
		return meta.Item{}, meta.ErrNotFound
	}
	if err == nil {
		item.Attrs, err = decode(attrs)
	}
	if err != nil {
		return meta.Item{}, fmt.Errorf("get %v: %w", key, err)
	}
	return item, nil
}

// Query implements meta.Store.
func (s *Store) Query(ctx context.Context, pk string, r meta.Range) (items []meta.Item, more bool, err error) {
	limit := r.Limit
	if limit <= 0 || limit > pageLimit {
		limit = pageLimit
	}
	stmt, lo, hi := s.up, r.Prefix, prefixEnd(r.Prefix)
	switch {
	case r.Reverse && r.After != "":
		stmt, hi = s.down, min(hi, r.After)
	case r.Reverse:
		stmt = s.down
	case r.After != "":
		lo = max(lo, r.After+"\x00") // the next string
	}
	rows, err := stmt.QueryContext(ctx, pk, lo, hi, limit+1)
	if err != nil {
		return nil, false, fmt.Errorf("query %s: %w", pk, err)
	}
	defer rows.Close()
	for rows.Next() {
		item := meta.Item{Key: meta.Key{PK: pk}}
		var attrs string
		if err := rows.Scan(&item.SK, &item.Version, &item.CommitID, &attrs); err != nil {
			return nil, false, fmt.Errorf("query %s: %w", pk, err)
		}
		if item.Attrs, err = decode(attrs); err != nil {
			return nil, false, fmt.Errorf("query %s: %w", pk, err)
		}
		items = append(items, item)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("query %s: %w", pk, err)
	}
	if len(items) > limit {
		return items[:limit], true, nil
	}
	return items, false, nil
}

// prefixEnd returns a string greater than all valid ones that begin with p,
// and not greater than any other that is greater than p.
func prefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\xff" // UTF-8 has no such byte
}

// Commit implements meta.Store.
func (s *Store) Commit(ctx context.Context, id string, ops ...meta.Op) error {
	if err := meta.Validate(id, ops); err != nil {
		return err
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return classify("begin", err, true)
	}
	if err := s.apply(ctx, tx, id, ops); err != nil {
		_ = tx.Rollback() // nothing was committed; the error below says why
		return err
	}
	if err := tx.Commit(); err != nil {
		return classify("commit", err, false)
	}
	return nil
}

func (s *Store) apply(ctx context.Context, tx *sql.Tx, id string, ops []meta.Op) error {
	for _, op := range ops {
		now := meta.Item{Key: op.Key}
		err := tx.StmtContext(ctx, s.look).QueryRowContext(ctx, op.Key.PK, op.Key.SK).Scan(&now.Version, &now.CommitID)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return classify("read", err, true)
		}
		if !op.Holds(now) {
			return meta.ErrConflict
		}
	}
	for _, op := range ops {
		var err error
		switch op.Kind {
		case meta.OpCreate, meta.OpReplace:
			var attrs string
			if attrs, err = encode(op.Attrs); err == nil {
				_, err = tx.StmtContext(ctx, s.put).ExecContext(ctx, op.Key.PK, op.Key.SK, op.Old.Version+1, id, attrs)
			}
		case meta.OpDelete:
			_, err = tx.StmtContext(ctx, s.del).ExecContext(ctx, op.Key.PK, op.Key.SK)
		case meta.OpCheck:
		}
		if err != nil {
			return classify("write", err, true)
		}
	}
	return nil
}

// classify tells what an error says about the commit. Before the last step
// nothing can have been applied and nothing of it is left: busy, disk full or
// the caller's deadline alike. Of the last step itself the outcome is unknown.
func classify(what string, err error, before bool) error {
	if before {
		return fmt.Errorf("%w: %s: %w", meta.ErrBusy, what, err)
	}
	return fmt.Errorf("metadata %s: %w", what, err)
}

func isBusy(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_BUSY || se.Code()&0xff == sqlite3.SQLITE_LOCKED)
}
