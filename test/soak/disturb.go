package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// pause is the time between two disturbances.
const pause = 1500 * time.Millisecond

// disturber changes the world under the load, one thing after the other, in turns.
type disturber struct {
	w        *world
	counts   map[string]int
	failures []string
	slowest  time.Duration // of the reloads

	open, extra, down, blink bool
}

// run disturbs until ctx ends, and then puts everything back.
func (d *disturber) run(ctx context.Context) {
	d.open = true
	turns := []func(t *scope){d.policy, d.backend, d.tool, d.server, d.child, d.tool, d.backend, d.policy, d.server, d.broken}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
			d.failures = append(d.failures, within(turns[i%len(turns)])...)
			continue
		case <-ctx.Done():
		}
		break
	}
	d.failures = append(d.failures, within(func(t *scope) {
		for _, undo := range []struct {
			needed bool
			do     func(t *scope)
		}{{d.down, d.backend}, {d.blink, d.tool}, {d.extra, d.server}, {!d.open, d.policy}} {
			if undo.needed {
				undo.do(t)
			}
		}
	})...)
}

// reload makes a change and waits until the gateway has taken it, or with good false until it has refused it.
func (d *disturber) reload(t *scope, good bool, change func()) {
	read := func() (at, successful float64) {
		m, err := d.w.metrics()
		if err != nil {
			t.Fatalf("reading the metrics: %v", err)
		}
		return m["mcpgw_config_last_reload_success_timestamp_seconds"], m["mcpgw_config_last_reload_successful"]
	}
	before, _ := read()
	began := time.Now()
	change()
	harness.Eventually(t, 15*time.Second, fmt.Sprintf("a reload (good: %v) shows in the metrics", good), func() bool {
		time.Sleep(20 * time.Millisecond) // a scrape is not free
		at, successful := read()
		return good && at > before && successful == 1 || !good && successful == 0
	})
	if good {
		d.slowest = max(d.slowest, time.Since(began))
	}
}

// policy switches between two policies, which file watching notices.
func (d *disturber) policy(t *scope) {
	d.open = !d.open
	text := rules + rulesClosed
	if d.open {
		text = rules + rulesOpen
	}
	d.reload(t, true, func() { harness.WriteFile(t, d.policyFile(), text) })
	d.counts["policy changed"]++
}

func (d *disturber) policyFile() string {
	return filepath.Join(filepath.Dir(d.w.Config), "policy", "policy.rego")
}

// server adds a server to the configuration, or removes it.
func (d *disturber) server(t *scope) {
	d.extra = !d.extra
	d.reload(t, true, func() { d.w.Reload(t, d.w.config(d.extra)) })
	d.counts[map[bool]string{true: "server added", false: "server removed"}[d.extra]]++
}

// broken gives the gateway a configuration that it must refuse, then the good one again.
func (d *disturber) broken(t *scope) {
	d.reload(t, false, func() { d.w.Reload(t, d.w.config(d.extra)+"\nno_such_field: 1\n") })
	d.reload(t, true, func() { d.w.Reload(t, d.w.config(d.extra)) })
	d.counts["configuration broken and mended"]++
}

// backend takes beta down or brings it back.
func (d *disturber) backend(t *scope) {
	if d.down = !d.down; d.down {
		d.w.beta.Down()
		d.counts["server down"]++
		return
	}
	d.w.beta.Up(t)
	d.counts["server up"]++
}

// tool adds a tool to delta or removes it.
func (d *disturber) tool(*scope) {
	d.blink = !d.blink
	d.w.blink(d.blink)
	d.counts[map[bool]string{true: "tool added", false: "tool removed"}[d.blink]]++
}

// child kills one of the stdio servers.
func (d *disturber) child(t *scope) {
	all := d.w.children()
	if len(all) == 0 {
		t.Fatalf("no stdio child runs")
	}
	p := all[d.counts["child killed"]%len(all)]
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("killing %d: %v", p.pid, err)
	}
	d.counts["child killed"]++
}
