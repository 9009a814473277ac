package restore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/varvelog/varve/test/internal/awstest"
	"github.com/varvelog/varve/test/internal/brokertest"
)

const brokers = 3

// site is where a cluster is: what its brokers are started with, and what commands
// are told.
type site struct {
	bin    string
	broker brokertest.Options
	where  []string // of a command
	make   []string // of one that may make the catalogue
	lose   func(t *testing.T)
}

// onFiles is a data directory that all brokers share.
func onFiles(t *testing.T) site {
	data := t.TempDir()
	return site{
		bin: brokertest.Binary(t), broker: brokertest.Options{Data: data}, where: []string{"--data", data},
		lose: func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(data, "meta.db*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("no catalogue in %s: %v", data, err)
			}
			for _, f := range files {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		},
	}
}

// onAWS is a bucket of versitygw and a table of DynamoDB Local.
func onAWS(t *testing.T) site {
	s3, endpoint := awstest.VersityGW(t), awstest.DynamoDBLocal(t)
	table := awstest.Name("table")
	where := []string{"--bucket", awstest.Name("bucket"), "--table", table}
	return site{
		bin: brokertest.Binary(t), where: where, make: []string{"--create"},
		broker: brokertest.Options{Args: append(slices.Clone(where), "--create"), Env: awstest.Environ(s3, endpoint)},
		lose: func(t *testing.T) {
			if _, err := dynamodb.NewFromConfig(awstest.Config(endpoint)).DeleteTable(t.Context(), &dynamodb.DeleteTableInput{TableName: aws.String(table)}); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// start starts brokers of a binary with settings.
func (s site) start(t *testing.T, bin string, settings ...string) (all []*brokertest.Broker, addrs string) {
	t.Helper()
	var list []string
	for id := range brokers {
		o := s.broker
		o.Bin, o.Settings = bin, settings
		o.Args = append(slices.Clone(o.Args), "--id", strconv.Itoa(id+1))
		b := brokertest.StartWith(t, o)
		all, list = append(all, b), append(list, b.Addr)
	}
	return all, strings.Join(list, ",")
}

// varve runs a command of the binary on the site and returns what it prints.
func (s site) varve(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return s.run(t, append(args, s.where...)...)
}

// run runs a command of the binary.
func (s site) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), s.broker.Env...), &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("varve %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), err
}

func (s site) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.varve(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rebuild rebuilds a lost catalogue: first it only says what it would be.
func (s site) rebuild(t *testing.T) {
	t.Helper()
	t.Log(s.must(t, "catalog", "rebuild"))
	write := append([]string{"catalog", "rebuild", "--write"}, s.make...)
	s.must(t, write...)
	if _, err := s.varve(t, write...); err == nil {
		t.Error("it wrote over a catalogue that was there")
	}
}
