// Package netns gives a test a network of its own, of Linux's namespaces, in
// which packets between any two addresses can be made to vanish. Nothing of it
// is to be seen or reached from outside.
//
//	the test (two addresses) ──┐
//	host 1 ────────────────────┼── router
//	host 2 ────────────────────┘
package netns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The test's own addresses: Clients is what it reaches hosts from, Store one
// for servers that it runs.
const (
	Clients = "10.77.0.1"
	Store   = "10.77.0.2"
)

// Host returns the address of a host, from 1 on.
func Host(n int) string { return fmt.Sprintf("10.77.1.%d", n) }

// prefix of the names of namespaces; the process that makes them follows.
const prefix = "varve-"

// inside tells the process in a network which it is.
const inside = "VARVE_TEST_NETNS"

// Net is the network that this process is in.
type Net struct {
	t    testing.TB
	name string // that its namespaces' names begin with
}

// Run runs the rest of the test in a new network of so many hosts: by another
// process, where it returns the network. Here it returns nil when that has ended,
// and the test ends as it has. Without the right or the tools to make namespaces the test is
// skipped; where both are there and they cannot be made, it fails when CI=true.
func Run(t *testing.T, hosts int) *Net {
	t.Helper()
	if name := os.Getenv(inside); name != "" {
		return &Net{t: t, name: name}
	}
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		t.Skip("network namespaces need root and iproute2's ip: nothing is cut off here")
	}
	removeLeft()
	n := &Net{t: t, name: fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), strings.ToLower(rand.Text()[:8]))}
	t.Cleanup(func() { n.remove(hosts) })
	if err := n.make(hosts); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", n.host(0), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+n.name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("inside:\n%s", out)
	if err != nil {
		t.Errorf("the test in its network: %v", err)
	}
	return nil
}

// Under returns the command that starts a process on a host.
func (n *Net) Under(host int) []string { return []string{"ip", "netns", "exec", n.host(host)} }

// Cut lets what goes from a to b, and from b to a, vanish on the way.
func (n *Net) Cut(a, b string) { n.rule("add", a, b) }

// Heal undoes Cut.
func (n *Net) Heal(a, b string) { n.rule("del", a, b) }

func (n *Net) rule(verb, a, b string) {
	n.t.Helper()
	for _, way := range [][2]string{{a, b}, {b, a}} {
		if err := ip("-n", n.router(), "rule", verb, "from", way[0], "to", way[1], "blackhole"); err != nil {
			n.t.Fatal(err)
		}
	}
}

// removeLeft removes namespaces of processes that were ended before they could.
func removeLeft() {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, prefix), "-")
		pid, err := strconv.Atoi(digits)
		if strings.HasPrefix(name, prefix) && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = ip("netns", "del", name) // somebody else may be at it
		}
	}
}

// host names a namespace; 0 is the test's.
func (n *Net) host(i int) string { return fmt.Sprintf("%s-%d", n.name, i) }

func (n *Net) router() string { return n.name + "-router" }

// make makes the namespaces, and joins each to the router by a pair of interfaces.
func (n *Net) make(hosts int) error {
	steps := [][]string{
		{"netns", "add", n.router()},
		{"netns", "exec", n.router(), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"},
	}
	const gateway = "10.77.0.254"
	for i := range hosts + 1 {
		ns, to, addrs := n.host(i), fmt.Sprintf("to%d", i), []string{Host(i)}
		if i == 0 {
			addrs = []string{Clients, Store}
		}
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"link", "add", to, "netns", n.router(), "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"-n", n.router(), "addr", "add", gateway + "/32", "dev", to},
			[]string{"-n", n.router(), "link", "set", to, "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
		)
		for _, a := range addrs {
			steps = append(steps,
				[]string{"-n", ns, "addr", "add", a + "/32", "dev", "eth0"},
				[]string{"-n", n.router(), "route", "add", a + "/32", "dev", to})
		}
		steps = append(steps,
			[]string{"-n", ns, "route", "add", gateway + "/32", "dev", "eth0"},
			[]string{"-n", ns, "route", "add", "default", "via", gateway, "src", addrs[0]})
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			return err
		}
	}
	return nil
}

// remove removes what was made; the interfaces go with it.
func (n *Net) remove(hosts int) {
	_ = ip("netns", "del", n.router()) // it may not be there
	for i := range hosts + 1 {
		_ = ip("netns", "del", n.host(i))
	}
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
