// Package driver is what the client programs written in Go share: the commands
// that every client program understands, the records they write and the form
// in which they print what they read. java, kafkajs and python have the same
// in their languages.
//
// A client program is called `program BOOTSTRAP COMMAND ARG ...` and exits with
// 0, with 1 and a message, or with 3 where the client has no such feature. The
// commands, for topics that exist but for admin's:
//
//	version                          print the client's version
//	produce TOPIC CODEC COUNT        write Make(0) … Make(COUNT-1), record i to partition i%3
//	idempotent TOPIC COUNT           the same with an idempotent producer
//	consume TOPIC COUNT              read COUNT records of partitions 0 to 2 from the start, without a group
//	seek TOPIC OFFSET ...            in partition 1, seek to each offset and print the offset of the record read there
//	group TOPIC GROUP                one member has all of 4 partitions, with a second each has 2, without it one has 4
//	commit MODE TOPIC GROUP COUNT    read COUNT records in a group, commit (sync, async or auto), leave
//	large TOPIC SIZE                 write Large(SIZE) to partition 0 and read it back
//	admin TOPIC                      create TOPIC with 3 partitions, find it in the list, delete it, miss it there
//	transact INPUT OUTPUT GROUP COUNT  three transactions of one producer, whose transactional id is GROUP, and a read
//
// The transactions of transact are, in this order: one that writes No to each
// of OUTPUT's partitions 0 to 2, aborted; one that writes what produce does to
// OUTPUT and commits offset COUNT/3 of INPUT's partitions 0 to 2 for GROUP,
// committed; one that writes No to each again and would commit offset 1,
// aborted. Then it reads COUNT records of OUTPUT as consume does, but those of
// committed transactions only.
//
// What is read is printed as a Record in JSON, one a line.
package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// Header is a record header.
type Header struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Record is a record as client programs print it. Key and Value are null where
// the record's are, and base64 otherwise.
type Record struct {
	Partition int32    `json:"partition"`
	Offset    int64    `json:"offset"`
	Timestamp int64    `json:"timestamp"` // milliseconds since 1970
	Key       []byte   `json:"key"`
	Value     []byte   `json:"value"`
	Headers   []Header `json:"headers"`
}

// Unsupported is the exit code of a program whose client has no such feature.
const Unsupported = 3

// No is the value of the records of aborted transactions.
const No = "no"

// Base is the timestamp of record 0, in milliseconds since 1970.
const Base = 1_700_000_000_000

// Partitions is the number of partitions that records are spread over.
const Partitions = 3

// Make returns record i as every client program writes it. A tenth of
// the keys and another tenth of the values are null.
func Make(i int) Record {
	r := Record{
		Partition: int32(i % Partitions),
		Offset:    int64(i / Partitions),
		Timestamp: Base + int64(i)*1000,
		Headers: []Header{
			{"n", []byte(strconv.Itoa(i))},
			{"twice", []byte("1")},
			{"twice", []byte("2")},
			{"bytes", []byte{255, 1, 2}},
		},
	}
	if i%10 != 3 {
		r.Key = fmt.Appendf(nil, "key-%d", i)
	}
	if i%10 != 9 {
		r.Value = fmt.Appendf(nil, "wärve-%d %s", i, strings.Repeat("abcdefgh", i%50+1))
	}
	return r
}

// Large returns the value of a large record.
func Large(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*31 + (i>>8)*17)
	}
	return b
}

// Print prints a record that was read.
func Print(r Record) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // a Record can always be marshalled
	}
	fmt.Println(string(line))
}

// Client is what a client program in Go implements, one method a command. A
// command that the client has no such feature for returns errors.ErrUnsupported.
type Client interface {
	Version() string
	Produce(ctx context.Context, topic, codec string, count int, idempotent bool) error
	Consume(ctx context.Context, topic string, count int) error
	Seek(ctx context.Context, topic string, offsets []int64) error
	Group(ctx context.Context, topic, group string) error
	Commit(ctx context.Context, mode, topic, group string, count int) error
	Large(ctx context.Context, topic string, size int) error
	Admin(ctx context.Context, topic string) error
	Transact(ctx context.Context, input, output, group string, count int) error
}

// Main runs the command of the process's arguments.
func Main(open func(bootstrap string) Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := run(ctx, open(os.Args[1]), os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[2], err)
		if errors.Is(err, errors.ErrUnsupported) {
			os.Exit(Unsupported)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, c Client, command string, args []string) error {
	switch command {
	case "version":
		fmt.Println(c.Version())
		return nil
	case "produce":
		return c.Produce(ctx, args[0], args[1], number(args[2]), false)
	case "idempotent":
		return c.Produce(ctx, args[0], "none", number(args[1]), true)
	case "consume":
		return c.Consume(ctx, args[0], number(args[1]))
	case "seek":
		var offsets []int64
		for _, a := range args[1:] {
			offsets = append(offsets, int64(number(a)))
		}
		return c.Seek(ctx, args[0], offsets)
	case "group":
		return c.Group(ctx, args[0], args[1])
	case "commit":
		return c.Commit(ctx, args[0], args[1], args[2], number(args[3]))
	case "large":
		return c.Large(ctx, args[0], number(args[1]))
	case "admin":
		return c.Admin(ctx, args[0])
	case "transact":
		return c.Transact(ctx, args[0], args[1], args[2], number(args[3]))
	}
	return fmt.Errorf("no command %q", command)
}

// Module returns the version of a module that the program is built with.
func Module(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "unknown"
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}
