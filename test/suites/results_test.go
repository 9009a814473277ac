package suites

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// results has each test that ran, and how it ended.
type results map[string]result

type result struct {
	outcome string // pass, fail or skip
	output  string // of a failed test, where the suite tells
}

// expectation is a line of expected.txt.
type expectation struct {
	kind   string // fails or races
	reason string
}

// readExpected reads expected.txt by suite and test.
func readExpected(t *testing.T, file string) map[string]map[string]expectation {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]map[string]expectation)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != "fails" && f[1] != "races" {
			t.Fatalf("%s: want suite, fails or races, test, reason: %q", file, line)
		}
		if all[f[0]] == nil {
			all[f[0]] = make(map[string]expectation)
		}
		all[f[0]][f[2]] = expectation{kind: f[1], reason: strings.Join(f[3:], " ")}
	}
	return all
}

// judge compares what happened with what is expected.
func (r results) judge(t *testing.T, s suite, expected map[string]expectation) {
	t.Helper()
	count := make(map[string]int)
	for name, res := range r {
		count[res.outcome]++
		e, listed := expected[name]
		switch {
		case res.outcome == "fail" && !listed:
			t.Errorf("%s failed:\n%s", name, res.output)
		case res.outcome == "fail":
			t.Logf("%s failed, as listed: %s", name, e.reason)
		case e.kind == "fails":
			t.Errorf("%s: %s, but is listed to fail: %s", name, res.outcome, e.reason)
		}
	}
	for name := range expected {
		if _, ran := r[name]; !ran {
			t.Errorf("%s is listed, but there is no such test", name)
		}
	}
	t.Logf("%d passed, %d failed, %d skipped", count["pass"], count["fail"], count["skip"])
	if ran := count["pass"] + count["fail"]; ran < s.least {
		t.Errorf("%d tests ran, of at least %d", ran, s.least)
	}
}

// parseGoTest reads the events of `go test -json`, of tests, not of sub-tests.
func parseGoTest(t *testing.T, out []byte) results {
	t.Helper()
	r, text := make(results), make(map[string]*strings.Builder)
	passed := false
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e struct{ Action, Test, Output string }
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("events of go test: %v\n%s", err, out)
		}
		name, _, sub := strings.Cut(e.Test, "/")
		if text[name] == nil {
			text[name] = new(strings.Builder)
		}
		switch e.Action {
		case "output":
			text[name].WriteString(e.Output)
		case "pass", "fail", "skip":
			if name != "" && !sub {
				r[name] = result{outcome: e.Action}
			}
			passed = e.Action == "pass"
		}
	}
	failed := false
	for name, res := range r {
		if res.outcome == "fail" {
			failed = true
			r[name] = result{outcome: "fail", output: text[name].String()}
		}
	}
	if !passed && !failed { // the last event is the package's
		t.Fatalf("the package failed, but no test did:\n%s", out)
	}
	return r
}

var cargoLine = regexp.MustCompile(`^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)`)

// addCargo adds the lines that a test program of cargo's prints.
func (r results) addCargo(program string, out []byte) {
	outcomes := map[string]string{"ok": "pass", "FAILED": "fail", "ignored": "skip"}
	for line := range strings.Lines(string(out)) {
		if m := cargoLine.FindStringSubmatch(line); m != nil {
			r[program+"::"+m[1]] = result{outcome: outcomes[m[2]], output: string(out)}
		}
	}
}

// parseJUnit reads the report that pytest writes. A test is named after the
// last part of its module.
func parseJUnit(t *testing.T, report []byte) results {
	t.Helper()
	var doc struct {
		Cases []struct {
			Class   string    `xml:"classname,attr"`
			Name    string    `xml:"name,attr"`
			Failure *string   `xml:"failure"`
			Error   *string   `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(report, &doc); err != nil {
		t.Fatalf("report: %v", err)
	}
	r := make(results)
	for _, c := range doc.Cases {
		name := c.Class[strings.LastIndexByte(c.Class, '.')+1:] + "::" + c.Name
		switch {
		case c.Failure != nil:
			r[name] = result{outcome: "fail", output: *c.Failure}
		case c.Error != nil:
			r[name] = result{outcome: "fail", output: *c.Error}
		case c.Skipped != nil:
			r[name] = result{outcome: "skip"}
		default:
			r[name] = result{outcome: "pass"}
		}
	}
	return r
}
