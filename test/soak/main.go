// Command soak keeps a real gateway under a mixed load while its world changes, and fails if an answer is not the promised one, or
// if what the load has taken does not come back.
//
//	go run ./test/soak -for 30m
//
// It starts `mcpgw run` with the real Envoy before servers of the go-sdk, of the Python and of the TypeScript SDK. Eight clients
// call, list, read, open sessions and streams, drop them, vanish, cancel, and send what no good client sends, while servers go
// down, children are killed, tools and servers come and go, and policies change. Every answer is held against the table "what the
// client sees". Once the load has ended, memory, open files, goroutines, sessions and parked exchanges must be back where they
// were, within the slack that watch.go states, and each server must serve.
//
// A line every 10 s says how it goes; the report is .out/soak.json, and after a failure mcpgw's log stands beside it. Exit status 1 means that something was not as promised, 2
// that the run did not take place, 130 that it was interrupted. It leaves no process and no file behind but the report.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

func main() {
	length := flag.Duration("for", 30*time.Minute, "how `long` the load lasts, 10s at least; the start and the end come on top")
	flag.Parse()
	if *length < 10*time.Second || *length > 24*time.Hour || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	log.SetOutput(io.Discard) // net/http's own words about clients that vanish, which is what they are for
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	r := soak(withParent(ctx), *length, os.Stdout)
	stop()
	os.Exit(r.status())
}

// withParent ends a context when the process that started this one is gone: `go run` hands on no SIGTERM.
func withParent(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		for ctx.Err() == nil && os.Getppid() == parent {
			time.Sleep(500 * time.Millisecond)
		}
		cancel()
	}()
	return ctx
}

// report is .out/soak.json.
type report struct {
	Started      time.Time                 `json:"started"`
	LoadSeconds  float64                   `json:"load_seconds"`
	Interrupted  bool                      `json:"interrupted"`
	NotRun       []string                  `json:"not_run,omitempty"` // why there was no run
	Operations   int                       `json:"operations"`
	Unexpected   int                       `json:"unexpected"`
	ByOperation  map[string]map[string]int `json:"by_operation"` // operation to ending to count
	Samples      []string                  `json:"unexpected_samples"`
	Disturbances map[string]int            `json:"disturbances"`
	SlowReload   float64                   `json:"slowest_reload_seconds"`
	Before       map[string]float64        `json:"before"`
	Peak         map[string]float64        `json:"peak"`
	After        map[string]float64        `json:"after"`
	Settled      float64                   `json:"settled_after_seconds"`
	Slack        map[string]float64        `json:"slack"`
	Trends       map[string]float64        `json:"trends"` // the last quarter's lowest above the second's
	Log          []string                  `json:"log"`    // messages of mcpgw at WARN and above, each once
	Faults       []string                  `json:"faults"` // why the run has failed
	Series       []sample                  `json:"series"`

	log string // of mcpgw, as far as it was kept
}

func (r *report) status() int {
	switch {
	case len(r.NotRun) > 0:
		return 2
	case len(r.Faults) > 0:
		return 1
	case r.Interrupted:
		return 130
	}
	return 0
}

// soak does the whole run and writes the report. It returns when nothing that it started is left, whatever ends it.
func soak(ctx context.Context, length time.Duration, out io.Writer) *report {
	r := &report{Started: time.Now().UTC(), Slack: slack, Trends: map[string]float64{}, Peak: map[string]float64{}}
	t := &scope{}
	t.protect(func() { r.run(ctx, t, length, out) })
	setUp := t.failed()
	t.tidy()
	if r.Before == nil && ctx.Err() == nil {
		r.NotRun = slices.Concat(setUp, t.logs)
		fmt.Fprintf(out, "soak: the run did not take place:\n%s\n", strings.Join(r.NotRun, "\n"))
		return r
	}
	r.Interrupted = ctx.Err() != nil
	if !r.Interrupted {
		r.Faults = append(r.Faults, t.failed()...) // what was left behind counts, too
	}
	if err := r.write(); err != nil {
		r.Faults = append(r.Faults, err.Error())
	}
	r.print(out)
	return r
}

// run is everything between the start of the first process and the end of the gateway.
func (r *report) run(ctx context.Context, t *scope, length time.Duration, out io.Writer) {
	short := length < time.Minute
	idle := 15 * time.Second // of a session; the pool's are used more often
	if short {
		idle = 3 * time.Second
	}
	w := start(t, idle)
	background, stop := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	t.Cleanup(func() { stop(); helpers.Wait() })
	helpers.Go(func() { w.listen(background) })

	l := newLoad(w)
	if err := eventually(ctx, time.Minute, l.working); err != nil {
		t.Fatalf("the gateway does not serve: %v", err)
	}
	x := newWatcher(w)
	before, err := x.look(background)
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.Before = before.Values
	x.scan()
	x.faults = nil // before the servers were up, a fault is none of the load's
	fmt.Fprintf(out, "soak: %s before 7 servers, load for %v\n", w.URLs[0], length)

	began := time.Now()
	under, end := context.WithTimeout(ctx, length)
	defer end()
	d := &disturber{w: w, counts: map[string]int{}}
	var load sync.WaitGroup
	load.Go(func() { l.run(under) })
	load.Go(func() { x.run(under) })
	load.Go(func() { d.run(under) })
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for under.Err() == nil {
		select {
		case <-tick.C:
			x.scan()
			progress(out, time.Since(began), l, x)
		case <-w.Ended():
			end()
			r.Faults = append(r.Faults, "mcpgw ended under load; its last words: "+tail(w.Stderr.String()))
		case <-under.Done():
		}
	}
	load.Wait()
	r.LoadSeconds = time.Since(began).Seconds()
	defer func() {
		x.scan()
		r.collect(l, d, x)
		r.log = w.Stderr.String()
	}()
	if ctx.Err() != nil || len(r.Faults) > 0 {
		return
	}
	r.settle(ctx, l, x, before, short, idle)
	if ctx.Err() != nil {
		return
	}
	r.leave(w, x)
}

// settle waits until everything is back where it was.
func (r *report) settle(ctx context.Context, l *load, x *watcher, before sample, short bool, idle time.Duration) {
	recovery := 20 * time.Second
	if short {
		recovery = 10 * time.Second
	}
	if err := eventually(ctx, recovery, l.working); err != nil && ctx.Err() == nil {
		r.Faults = append(r.Faults, "after the load, with all servers up: "+err.Error())
	}
	began := time.Now()
	for c := l.borrow(); c != nil; c = l.borrow() {
		r.Faults = append(r.Faults, within(func(t *scope) { l.end(t, c) })...)
	}
	l.mu.Lock()
	deleted := l.deleted
	l.mu.Unlock()
	for _, c := range deleted {
		r.Faults = append(r.Faults, within(func(t *scope) { gone(t, c, "deleted under load") })...)
	}
	// A session that nobody uses ends at its next use, or when the gateway looks, once a minute. A short run has no minute.
	patience := idle + 80*time.Second
	l.mu.Lock()
	left := l.abandoned
	l.mu.Unlock()
	if short {
		patience = 10 * time.Second
	} else if len(left) > 20 {
		left = left[len(left)-20:]
	}
	select {
	case <-time.After(idle + 100*time.Millisecond):
	case <-ctx.Done():
		return
	}
	for _, c := range left {
		r.Faults = append(r.Faults, within(func(t *scope) { gone(t, c, "idle for too long") })...)
	}
	var (
		after  sample
		faults []string
	)
	for deadline := time.Now().Add(patience); ; {
		var err error
		if after, err = x.look(ctx); err != nil {
			faults = []string{err.Error()}
		} else if faults = grown(before, after); len(faults) == 0 {
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	r.After, r.Settled = after.Values, time.Since(began).Seconds()
	if ctx.Err() == nil {
		r.Faults = append(r.Faults, faults...)
		r.Faults = append(r.Faults, counted(after)...)
		r.Faults = append(r.Faults, x.trends()...)
	}
}

// leave ends the gateway and checks that nothing of it is left.
func (r *report) leave(w *world, x *watcher) {
	r.Faults = append(r.Faults, within(func(t *scope) {
		w.Signal(t, syscall.SIGTERM)
		select {
		case <-w.Ended():
			if status := w.Wait(t, time.Second); status != 0 {
				t.Errorf("mcpgw ended with status %d on SIGTERM", status)
			}
		case <-time.After(shutdown):
			w.Signal(t, syscall.SIGQUIT) // Go says what each goroutine waits for
			w.Wait(t, 5*time.Second)
			t.Fatalf("mcpgw still runs %v after SIGTERM; its goroutines stand in the log", shutdown)
		}
		for pid, command := range x.pids {
			if alive(pid) {
				t.Errorf("process %d is left behind: %s", pid, command)
			}
		}
		// Below run, the folder that the configuration names, Envoy's files stay for whoever looks after it.
		if _, err := os.Stat(filepath.Join(w.dir, "a.sock")); err == nil {
			t.Errorf("the admin socket is left behind")
		}
	})...)
}

// collect takes over what the run has found.
func (r *report) collect(l *load, d *disturber, x *watcher) {
	r.Operations, r.Unexpected = l.total()
	l.mu.Lock()
	r.ByOperation, r.Samples = l.endings, l.samples
	l.mu.Unlock()
	r.Disturbances, r.SlowReload = d.counts, d.slowest.Seconds()
	for name := range rising {
		r.Trends[name] = x.trend(name)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	r.Peak, r.Series = x.peak, x.samples
	for m := range x.log {
		r.Log = append(r.Log, m)
	}
	slices.Sort(r.Log)
	if r.Unexpected > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("%d of %d operations ended otherwise than promised", r.Unexpected, r.Operations))
	}
	r.Faults = append(r.Faults, d.failures...)
	r.Faults = append(r.Faults, x.faults...)
}

func (r *report) write() error {
	var root string
	if failures := within(func(t *scope) { root = harness.Tools(t).Root }); len(failures) > 0 {
		return errors.New(failures[0])
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, ".out"), 0o755); err != nil {
		return err
	}
	file := filepath.Join(root, ".out", "soak.log")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // an older run's would mislead
	}
	if len(r.Faults) > 0 {
		if err := os.WriteFile(file, []byte(r.log), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, ".out", "soak.json"), append(text, '\n'), 0o600)
}

// progress prints one line.
func progress(out io.Writer, at time.Duration, l *load, x *watcher) {
	all, bad := l.total()
	v := x.now().Values
	fmt.Fprintf(out, "%5.0fs  %6d operations, %d unexpected | mcpgw %s %.0f files %.0f goroutines | Envoy %s %.0f files | children %s | sessions %.0f streams %.0f parked %.0f broken %.0f\n",
		at.Seconds(), all, bad, amount(mcpgwRSS, v[mcpgwRSS]), v[mcpgwFiles], v[goroutines], amount(envoyRSS, v[envoyRSS]), v[envoyFiles],
		amount(childrenRSS, v[childrenRSS]), v[sessions], v[streams], v[parked], v[broken])
}

// print prints the summary.
func (r *report) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d operations in %.0f s, %d unexpected; slowest reload %.2f s; settled after %.1f s\n", r.Operations, r.LoadSeconds, r.Unexpected, r.SlowReload, r.Settled)
	for _, o := range operations() {
		fmt.Fprintf(out, "  %-42s", o.name)
		for _, ending := range sorted(r.ByOperation[o.name]) {
			fmt.Fprintf(out, " %s %d ", ending, r.ByOperation[o.name][ending])
		}
		fmt.Fprintln(out)
	}
	fmt.Fprint(out, "disturbances: ")
	for _, name := range sorted(r.Disturbances) {
		fmt.Fprintf(out, " %s %d ", name, r.Disturbances[name])
	}
	fmt.Fprintf(out, "\n  %-30s %12s %12s %12s %12s\n", "", "before", "peak", "after", "slack")
	for _, name := range append(sorted(slack), broken, heap) {
		limit := "none"
		if more, ok := slack[name]; ok {
			limit = amount(name, more)
		}
		fmt.Fprintf(out, "  %-30s %12s %12s %12s %12s\n", name, amount(name, r.Before[name]), amount(name, r.Peak[name]), amount(name, r.After[name]), limit)
	}
	for _, s := range r.Samples {
		fmt.Fprintf(out, "unexpected: %s\n", s)
	}
	for _, f := range r.Faults {
		fmt.Fprintf(out, "FAULT: %s\n", f)
	}
	switch {
	case len(r.Faults) > 0:
		fmt.Fprintln(out, "soak: failed")
	case r.Interrupted:
		fmt.Fprintln(out, "soak: interrupted")
	default:
		fmt.Fprintln(out, "soak: passed")
	}
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// shutdown is how long an idle gateway may take to end, with a drain time of 5 s.
const shutdown = 12 * time.Second

// tail is the end of a text.
func tail(s string) string { return s[max(0, len(s)-4000):] }
