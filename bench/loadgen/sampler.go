package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type proc struct {
	name           string
	pid            int
	rss0, peak, r1 int64
	cpu0           float64
}

type sampler struct {
	procs []*proc
	done  chan struct{}
	wg    sync.WaitGroup
}

func rssKB(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS:") {
			f := strings.Fields(l)
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

func cpuSec(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return 0
	}
	f := strings.Fields(string(b)[i+1:])
	if len(f) < 13 {
		return 0
	}
	u, _ := strconv.ParseFloat(f[11], 64)
	k, _ := strconv.ParseFloat(f[12], 64)
	return (u + k) / 100
}

func startSampler(spec string) *sampler {
	s := &sampler{done: make(chan struct{})}
	spec = strings.Trim(spec, ",")
	if spec != "" {
		for _, e := range strings.Split(spec, ",") {
			n, p, ok := strings.Cut(e, ":")
			if !ok {
				p, n = n, "server"
			}
			pid, _ := strconv.Atoi(p)
			if pid > 0 {
				pr := &proc{name: n, pid: pid, rss0: rssKB(pid), cpu0: cpuSec(pid)}
				s.procs = append(s.procs, pr)
			}
		}
	}
	self := &proc{name: "loadgen", pid: os.Getpid(), cpu0: cpuSec(os.Getpid())}
	s.procs = append(s.procs, self)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			for _, p := range s.procs {
				if r := rssKB(p.pid); r > p.peak {
					p.peak = r
				}
			}
			select {
			case <-s.done:
				return
			case <-t.C:
			}
		}
	}()
	return s
}

func (s *sampler) stop(out map[string]any) {
	close(s.done)
	s.wg.Wait()
	m := map[string]any{}
	for _, p := range s.procs {
		m[p.name] = map[string]any{
			"rss_before_mb": p.rss0 / 1024, "rss_peak_mb": p.peak / 1024, "rss_after_mb": rssKB(p.pid) / 1024,
			"cpu_s": round(cpuSec(p.pid)-p.cpu0, 2),
		}
	}
	out["procs"] = m
}

func round(f float64, n int) float64 {
	s, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', n, 64), 64)
	return s
}
