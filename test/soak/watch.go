package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// The gauges that a sample may hold. The name is the report's.
const (
	mcpgwRSS    = "mcpgw_rss_bytes"
	envoyRSS    = "envoy_rss_bytes"
	childrenRSS = "stdio_children_rss_bytes"
	mcpgwFiles  = "mcpgw_files"
	envoyFiles  = "envoy_files"
	childFiles  = "stdio_children_files"
	processes   = "processes"
	goroutines  = "go_goroutines"
	heap        = "go_heap_alloc_bytes"
	sessions    = "mcpgw_sessions"
	streams     = "mcpgw_streams"
	parked      = "mcpgw_parked_exchanges"
	inFlight    = "mcpgw_ext_proc_in_flight"
	bodies      = "mcpgw_body_bytes_in_flight"
	broken      = "mcpgw_ext_proc_broken_total"
	gammas      = "sessions_on_a_legacy_server"
	envoyActive = "envoy_ingress_active_requests"
	clusters    = "envoy_clusters"
)

// slack is by how much a gauge may stand above where it stood before the load. What is kept on purpose explains it: idle
// connections between Envoy, mcpgw and servers (the peak of what ran at once), the ruling cache and list bytes, heap that Go
// and tcmalloc have not given back; of the git server pipes to its own git until Python collects.
var slack = map[string]float64{
	mcpgwRSS:    96 << 20,
	envoyRSS:    64 << 20,
	childrenRSS: 64 << 20,
	mcpgwFiles:  100,
	envoyFiles:  200,
	childFiles:  64,
	processes:   0,
	goroutines:  250,
	sessions:    0,
	streams:     0,
	parked:      0,
	inFlight:    0,
	bodies:      0,
	gammas:      0,
	envoyActive: 0,
	clusters:    0,
}

// never are Envoy's counters that stay 0 as long as it and mcpgw understand each other.
var never = regexp.MustCompile(`spurious_msgs_received$|rejected_header_mutations$|failure_mode_allowed$|update_rejected$|^cluster\.refuse\.upstream_cx_none_healthy$|lua.*\.errors$`)

// sample is what was seen at one moment.
type sample struct {
	At     time.Time          `json:"at"`
	Values map[string]float64 `json:"values"`
}

// watcher looks once a second.
type watcher struct {
	w    *world
	pids map[int]string // every process that was seen below mcpgw; one goroutine at a time uses it

	mu      sync.Mutex // guards what follows
	samples []sample
	peak    map[string]float64
	log     map[string]bool // messages of mcpgw's log at WARN and above
	faults  []string
}

func newWatcher(w *world) *watcher {
	return &watcher{w: w, pids: map[int]string{}, peak: map[string]float64{}, log: map[string]bool{}}
}

// look takes a sample.
func (x *watcher) look(ctx context.Context) (sample, error) {
	s := sample{At: time.Now(), Values: map[string]float64{}}
	v := s.Values
	all := family(x.w.Pid())
	for i, p := range all {
		x.pids[p.pid] = p.command
		switch {
		case i == 0:
			v[mcpgwRSS], v[mcpgwFiles] = float64(p.rss), float64(p.files)
		case p.parent != x.w.Pid():
			continue // a server's own: the git server keeps a `git cat-file` until Python collects
		case p.isEnvoy():
			v[envoyRSS], v[envoyFiles] = float64(p.rss), float64(p.files)
		default:
			v[childrenRSS] += float64(p.rss)
			v[childFiles] += float64(p.files)
		}
		v[processes]++
	}
	v[gammas] = float64(x.w.sessions())
	m, err := x.w.metrics()
	if err != nil {
		return s, fmt.Errorf("metrics of mcpgw: %w", err)
	}
	for _, name := range []string{goroutines, sessions, streams, parked, inFlight, bodies, broken} {
		value, ok := m[name]
		if !ok {
			return s, fmt.Errorf("mcpgw exposes no %s", name)
		}
		v[name] = value
	}
	v[heap] = m["go_memstats_heap_alloc_bytes"]
	stats, err := x.w.envoy.Stats(ctx, never.String()+`|^http\.ingress\.downstream_rq_active$|^cluster_manager\.active_clusters$`)
	if err != nil {
		return s, err
	}
	for name, n := range stats {
		switch {
		case strings.HasSuffix(name, "downstream_rq_active"):
			v[envoyActive] = float64(n)
		case name == "cluster_manager.active_clusters":
			v[clusters] = float64(n)
		default:
			v["envoy:"+name] = float64(n)
		}
	}
	return s, nil
}

// run looks once a second until ctx ends.
func (x *watcher) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s, err := x.look(ctx)
			x.mu.Lock()
			if err != nil {
				if ctx.Err() == nil && len(x.faults) < shown {
					x.faults = append(x.faults, "watching: "+err.Error())
				}
			} else {
				for name, v := range s.Values {
					x.peak[name] = max(x.peak[name], v)
				}
				x.samples = append(x.samples, s)
				if len(x.samples) > 4000 { // half as dense: the whole run stays visible
					kept := x.samples[:0]
					for i := 0; i < len(x.samples); i += 2 {
						kept = append(kept, x.samples[i])
					}
					x.samples = kept
				}
			}
			x.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// provoked is what is logged at level ERROR because the run asks for it: broken configurations, bodies that are too large, and
// clients that are gone before the gateway has decided.
var provoked = regexp.MustCompile(`the configuration is not taken|content length exceeds maximum|cause="[^"]*(context canceled|caller cancelled)`)

var (
	warning = regexp.MustCompile(`level=(WARN|ERROR) msg=("(?:[^"\\]|\\.)*"|\S+)`)
	numbers = regexp.MustCompile(`[0-9]+`)
	crash   = regexp.MustCompile(`(?i)panic|fatal error|data race|assert failure`)
)

// scan reads what is kept of mcpgw's log: errors and panics are faults.
func (x *watcher) scan() {
	for _, line := range x.w.Stderr.Lines() {
		found := warning.FindStringSubmatch(line)
		broken := crash.MatchString(line)
		if found == nil && !broken {
			continue
		}
		message := line
		if found != nil {
			message = found[1] + " " + numbers.ReplaceAllString(strings.Trim(found[2], `"`), "N")
		}
		x.mu.Lock()
		if !x.log[message] && len(x.log) < 1000 {
			x.log[message] = true
			if (broken || found[1] == "ERROR") && !provoked.MatchString(line) {
				x.faults = append(x.faults, fmt.Sprintf("mcpgw's log: %.1000s", line))
			}
		}
		x.mu.Unlock()
	}
}

// now is the last sample.
func (x *watcher) now() sample {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.samples) == 0 {
		return sample{Values: map[string]float64{}}
	}
	return x.samples[len(x.samples)-1]
}

// grown says what stands higher than before, beyond the slack.
func grown(before, after sample) []string {
	var out []string
	for name, more := range slack {
		if b, a := before.Values[name], after.Values[name]; a > b+more {
			out = append(out, fmt.Sprintf("%s: %s before the load, %s after it, slack %s", name, amount(name, b), amount(name, a), amount(name, more)))
		}
	}
	if after.Values[processes] < before.Values[processes] {
		out = append(out, fmt.Sprintf("processes: %v before the load, %v after it", before.Values[processes], after.Values[processes]))
	}
	slices.Sort(out)
	return out
}

// counted names Envoy's counters that should be 0 and are not.
func counted(s sample) []string {
	var out []string
	for name, v := range s.Values {
		if strings.HasPrefix(name, "envoy:") && v != 0 {
			out = append(out, fmt.Sprintf("Envoy's counter %s is %v", strings.TrimPrefix(name, "envoy:"), v))
		}
	}
	slices.Sort(out)
	return out
}

// trend is how much more a gauge had at its lowest in the last quarter of the load than in the second. The lowest value of a
// window tells more than a mean: it is what stays after Go has collected and clients have come and gone.
func (x *watcher) trend(name string) float64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	low := func(part []sample) float64 {
		lowest := part[0].Values[name]
		for _, s := range part {
			lowest = min(lowest, s.Values[name])
		}
		return lowest
	}
	n := len(x.samples)
	if n < 60 { // too short to tell anything
		return 0
	}
	return low(x.samples[n*3/4:]) - low(x.samples[n/4:n/2])
}

// rising bounds the trends.
var rising = map[string]float64{heap: 24 << 20, goroutines: 150, mcpgwFiles: 100, envoyFiles: 100, envoyRSS: 48 << 20}

func (x *watcher) trends() []string {
	var out []string
	for name, bound := range rising {
		if more := x.trend(name); more > bound {
			out = append(out, fmt.Sprintf("%s rises under an even load: the lowest of the last quarter is %s above that of the second, bound %s", name, amount(name, more), amount(name, bound)))
		}
	}
	slices.Sort(out)
	return out
}

func amount(name string, v float64) string {
	if strings.HasSuffix(name, "_bytes") {
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	}
	return fmt.Sprintf("%.0f", v)
}
