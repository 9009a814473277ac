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
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/varvelog/varve/internal/meta"
)

const (
	busyTimeoutMs = 5000
	readers       = 2 // connections that read at a time
	pageLimit     = 1000
)

const schema = `CREATE TABLE IF NOT EXISTS items (
	pk TEXT NOT NULL, sk TEXT NOT NULL, version INTEGER NOT NULL, commit_id TEXT NOT NULL, attrs TEXT NOT NULL,
	PRIMARY KEY (pk, sk)) WITHOUT ROWID`

// Store is an open database. Close it.
type Store struct {
	write, read           *sql.DB
	get, put, del, lookup *sql.Stmt // lookup reads within a commit
}

// Open opens the database at path and makes it where there is none.
func Open(ctx context.Context, path string) (*Store, error) {
	s := new(Store)
	var err error
	if s.write, err = open(path, "immediate", 1); err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	if _, err = s.write.ExecContext(ctx, schema); err == nil {
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

func (s *Store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		db   *sql.DB
		text string
	}{
		{&s.get, s.read, "SELECT version, commit_id, attrs FROM items WHERE pk=? AND sk=?"},
		{&s.lookup, s.write, "SELECT version, commit_id FROM items WHERE pk=? AND sk=?"},
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
	text, args := queryOf(pk, r, limit+1)
	rows, err := s.read.QueryContext(ctx, text, args...)
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

// queryOf bounds the sort keys so that the primary key's index serves them.
func queryOf(pk string, r meta.Range, limit int) (string, []any) {
	text, args := "SELECT sk, version, commit_id, attrs FROM items WHERE pk=?", []any{pk}
	if r.Prefix != "" {
		text, args = text+" AND sk>=?", append(args, r.Prefix)
		if end := prefixEnd(r.Prefix); end != "" {
			text, args = text+" AND sk<?", append(args, end)
		}
	}
	order := " ORDER BY sk LIMIT ?"
	switch {
	case r.Reverse && r.After != "":
		text, args = text+" AND sk<?", append(args, r.After)
	case r.After != "":
		text, args = text+" AND sk>?", append(args, r.After)
	}
	if r.Reverse {
		order = " ORDER BY sk DESC LIMIT ?"
	}
	return text + order, append(args, limit)
}

// prefixEnd returns the least string greater than all that begin with p.
func prefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
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
		err := tx.StmtContext(ctx, s.lookup).QueryRowContext(ctx, op.Key.PK, op.Key.SK).Scan(&now.Version, &now.CommitID)
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

// classify tells busy from unknown. Before the transaction's commit nothing
// can have been applied; of the commit itself, only a busy answer says so.
func classify(what string, err error, before bool) error {
	var se *sqlite.Error
	if errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_BUSY || se.Code()&0xff == sqlite3.SQLITE_LOCKED) && before {
		return fmt.Errorf("%w: %s: %w", meta.ErrBusy, what, err)
	}
	return fmt.Errorf("metadata %s: %w", what, err)
}

// encode writes attributes as a JSON object: strings as they are but for a
// leading ':', which marks bytes (":b:<base64>"), numbers (":i:<decimal>") and escapes itself ("::…").
func encode(a meta.Attrs) (string, error) {
	m := make(map[string]any, len(a))
	for k, v := range a {
		switch v := v.(type) {
		case string:
			if len(v) > 0 && v[0] == ':' {
				v = ":" + v
			}
			m[k] = v
		case int64:
			m[k] = ":i:" + strconv.FormatInt(v, 10)
		case []byte:
			m[k] = ":b:" + base64.StdEncoding.EncodeToString(v)
		default:
			m[k] = v
		}
	}
	b, err := json.Marshal(m)
	return string(b), err
}

func decode(s string) (meta.Attrs, error) {
	a := make(meta.Attrs)
	if err := json.Unmarshal([]byte(s), (*map[string]any)(&a)); err != nil {
		return nil, err
	}
	for k, v := range a {
		text, ok := v.(string)
		if !ok || len(text) == 0 || text[0] != ':' {
			continue
		}
		value, err := untag(text)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", k, err)
		}
		a[k] = value
	}
	return a, nil
}

func untag(text string) (any, error) {
	switch {
	case len(text) >= 2 && text[1] == ':':
		return text[1:], nil
	case len(text) >= 3 && text[:3] == ":i:":
		return strconv.ParseInt(text[3:], 10, 64)
	case len(text) >= 3 && text[:3] == ":b:":
		return base64.StdEncoding.DecodeString(text[3:])
	}
	return nil, fmt.Errorf("%q has no type", text)
}
