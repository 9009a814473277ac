package api

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "write the table of docs/protocol.md")

const (
	docPath  = "../../docs/protocol.md"
	docBegin = "<!-- table: begin, written by go test ./engine/api -run TestProtocolDoc -update -->\n"
	docEnd   = "<!-- table: end -->\n"
)

// TestProtocolDoc compares the handler table with docs/protocol.md.
func TestProtocolDoc(t *testing.T) {
	var b strings.Builder
	b.WriteString(docBegin + "\n| key | API | versions |\n| --: | --- | --- |\n")
	for _, a := range table() {
		versions := fmt.Sprintf("%d–%d", a.min, a.max)
		if a.min == a.max {
			versions = fmt.Sprint(a.min)
		}
		if a.advertised() != a.min {
			versions += fmt.Sprintf(" (advertised %d–%d)", a.advertised(), a.max)
		}
		fmt.Fprintf(&b, "| %d | %s | %s |\n", a.key, a.name, versions)
	}
	want := b.String() + "\n" + docEnd
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), docBegin)
	table, after, ok2 := strings.Cut(rest, docEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no table", docPath)
	}
	if *update {
		if err := os.WriteFile(docPath, []byte(before+want+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, docBegin+table+docEnd); diff != "" {
		t.Errorf("run with -update:\n%s", diff)
	}
}

// TestTable checks the table against kmsg: names, order, and that all
// versions can be decoded.
func TestTable(t *testing.T) {
	rows := table()
	if !slices.IsSortedFunc(rows, func(a, b api) int { return int(a.key - b.key) }) {
		t.Error("not in order of keys")
	}
	for _, a := range rows {
		req := kmsg.RequestForKey(a.key)
		if req == nil || req.MaxVersion() < a.max {
			t.Errorf("%s: kmsg does not know version %d", a.name, a.max)
		}
		if name := kmsg.NameForKey(a.key); !strings.EqualFold(name, a.name) && name != "AlterPartitionAssignments" {
			t.Errorf("key %d is %s, not %s", a.key, name, a.name)
		}
	}
}

// TestAPIVersions has the answers that Apache Kafka gives, byte by byte.
func TestAPIVersions(t *testing.T) {
	c := newRig(t, nil).dial()
	tests := []struct{ name, frame, want string }{
		{"unknown version", "0012 0063 00000007 000178 0000", "00000007 0023 00000001 0012 0000 0004"},
		{"unknown version without tags", "0012 0063 00000007 000178 00", "00000007 0023 00000001 0012 0000 0004"},
		{"bad software name", "0012 0003 00000009 000178 00 022d 0231 00", "00000009 002a 01 00000000 00"},
	}
	for _, tt := range tests {
		frame, err := hex.DecodeString(strings.ReplaceAll(tt.frame, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		c.frame(frame)
		got, err := c.read()
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if want := strings.ReplaceAll(tt.want, " ", ""); hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", tt.name, got, want)
		}
	}
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "librdkafka", "2.15.0"
	for v := int16(0); v <= maxAPIVersions; v++ {
		resp := ask[*kmsg.ApiVersionsResponse](c, req, v)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != len(table()) || (v >= 3) != (len(resp.FinalizedFeatures) == 2) {
			t.Errorf("version %d: %+v", v, resp)
		}
		if want := []int{0, 0, 0, 1, 2}[v]; len(resp.SupportedFeatures) != want {
			t.Errorf("version %d: features %+v, want %d", v, resp.SupportedFeatures, want)
		}
		for _, f := range resp.SupportedFeatures {
			if v < 4 && f.MinVersion < 1 {
				t.Errorf("version %d: %+v, which Java clients before 3.9 cannot read", v, f)
			}
		}
		if p := resp.ApiKeys[0]; p.ApiKey != 0 || p.MinVersion != 0 || p.MaxVersion != 13 {
			t.Errorf("version %d: Produce is %+v", v, p)
		}
	}
}

func TestValidSoftware(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "a": true, "-": false, "a-b.c": true, "a-": false, ".a": false, "apache-kafka-java": true, "a b": false, "1": true, "é": false,
	} {
		if validSoftware(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
