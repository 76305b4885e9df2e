package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// run starts everything, measures and ends everything.
func run(ctx context.Context, o options) (*report, error) {
	chosen, err := choose(o.cases)
	if err != nil {
		return nil, err
	}
	if o.profile != "" {
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return nil, err
		}
	}
	p, err := newPlant(ctx, o.profile)
	if err != nil {
		return nil, err
	}
	defer p.close()
	stop := context.AfterFunc(ctx, func() { p.load.end() }) // an interrupt ends the block under way
	defer stop()

	r := newReport(ctx)
	if o.sessions > 0 {
		if r.Memory, err = p.memory(ctx, o); err != nil {
			return nil, fmt.Errorf("memory report: %w", err)
		}
	}
	all := cells(chosen, o)
	targets := map[string]*target{}
	for _, s := range subjects(all) {
		fmt.Fprintln(o.progress, "bench: starting", s.name)
		if targets[s.name], err = p.startSubject(ctx, s); err != nil {
			return nil, err
		}
	}
	for _, c := range all {
		if err := targets[c.of.name].prepare(ctx, c); err != nil {
			return nil, err
		}
		c.job.Time, c.job.Calls = time.Duration(o.seconds/float64(o.blocks)*float64(time.Second)), 1_000_000
	}
	for block := range o.blocks {
		began := time.Now()
		for i := range all { // each round begins elsewhere, so that no case always follows the same one
			c := all[(i+block*7)%len(all)]
			if err := p.block(ctx, targets[c.of.name], c, o.profile != "" && block == o.blocks-1); err != nil {
				return nil, fmt.Errorf("case %s, %d connections, %d bytes: %w", c.name, c.connections, c.payload, err)
			}
		}
		fmt.Fprintf(o.progress, "bench: round %d of %d took %s\n", block+1, o.blocks, time.Since(began).Round(time.Second))
	}
	for _, c := range all {
		r.Rows = append(r.Rows, c.row())
	}
	r.Hardware.LoadAfter = loadAverage()
	return r, nil
}

// block measures one cell once.
func (p *plant) block(ctx context.Context, t *target, c *cell, profile bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := json.Marshal(c.job)
	if err != nil {
		return err
	}
	if _, err := p.load.stdin.Write(b); err != nil {
		return err
	}
	if _, err := p.load.out.ReadSlice('\n'); err != nil { // the connections are warm
		return fmt.Errorf("load generator: %w\n%s", err, p.load.log)
	}
	profile = profile && t.gateway
	if profile {
		if err := t.profile(fmt.Sprintf("/%s-%d-%d", c.name, c.connections, c.payload)); err != nil {
			return err
		}
	}
	envoy, mcpgw, err := t.account()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(p.load.stdin, `"go"`+"\n"); err != nil {
		return err
	}
	line, err := p.load.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("load generator: %w\n%s", err, p.load.log)
	}
	envoyNow, mcpgwNow, err := t.account()
	if err != nil {
		return err
	}
	var o outcome
	if err := json.NewDecoder(bytes.NewReader(line)).Decode(&o); err != nil {
		return err
	}
	n := len(o.Latencies)
	if profile {
		if err := t.profiled(c, n); err != nil {
			return err
		}
	}
	c.requests += n + o.Errors
	if c.errors += o.Errors; c.fault == "" {
		c.fault = o.Fault
	}
	if n == 0 {
		return nil
	}
	c.latencies = append(c.latencies, o.Latencies...)
	c.rate = append(c.rate, float64(n)/o.Took.Seconds())
	c.envoy = append(c.envoy, micros(envoyNow-envoy)/float64(n))
	c.mcpgw = append(c.mcpgw, micros(mcpgwNow-mcpgw)/float64(n))
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// account reads what the processes have used so far.
func (t *target) account() (envoy, mcpgw time.Duration, err error) {
	if envoy, err = cpuTime(t.envoy); err == nil && t.mcpgw != 0 {
		mcpgw, err = cpuTime(t.mcpgw)
	}
	return envoy, mcpgw, err
}

// profile begins a profile in the gateway.
func (t *target) profile(name string) error {
	if _, err := fmt.Fprintln(t.child.stdin, name); err != nil {
		return err
	}
	_, err := t.child.line()
	return err
}

// profiled ends it and tells what the calls have allocated.
func (t *target) profiled(c *cell, calls int) error {
	if _, err := fmt.Fprintln(t.child.stdin); err != nil {
		return err
	}
	line, err := t.child.line()
	if err != nil {
		return err
	}
	var mallocs, size, collections uint64
	if _, err := fmt.Sscanf(line, "profiled %d %d %d", &mallocs, &size, &collections); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	n := uint64(max(calls, 1))
	fmt.Fprintf(os.Stderr, "bench: %s, %d connections, %d bytes: %d allocations and %d bytes a call, %d collections in %d calls\n",
		c.name, c.connections, c.payload, mallocs/n, size/n, collections, calls)
	return nil
}

// memory starts a gateway as shipped, and reads what it holds idle and with many sessions.
func (p *plant) memory(ctx context.Context, o options) (*memory, error) {
	t, err := p.startGateway(ctx, shipped)
	if err != nil {
		return nil, err
	}
	defer t.child.end()
	m := &memory{Sessions: o.sessions}
	if m.Idle, err = resident(t.mcpgw); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == "broker" })
	if err := t.openSessions(ctx, scenarios[i], o.sessions); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, t.child.log)
	}
	m.WithSessions, err = resident(t.mcpgw)
	return m, err
}
