package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"text/tabwriter"

	"github.com/mcpgw/mcpgw/envoy"
)

// report is what a run found; its JSON form is .out/bench.json.
type report struct {
	Hardware hardware `json:"hardware"`
	Versions versions `json:"versions"`
	Rows     []row    `json:"rows"`
	Memory   *memory  `json:"-"`
}

type hardware struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	LoadBefore string `json:"load_before"` // load average of the last minute: above 1 the machine was not quiet
	LoadAfter  string `json:"load_after"`
}

type versions struct {
	Mcpgw string `json:"mcpgw"` // the commit, "-dirty" where files were changed since
	Envoy string `json:"envoy"`
	Go    string `json:"go"`
}

// row is one case. Latencies are of all calls, rate and CPU time are medians over blocks.
type row struct {
	Case        string  `json:"case"`
	Era         string  `json:"era"`
	Connections int     `json:"connections"`
	Payload     int     `json:"payload_bytes"`
	Requests    int     `json:"requests"`
	Errors      int     `json:"errors"`
	Median      float64 `json:"median_us"`
	P99         float64 `json:"p99_us"`
	Rate        float64 `json:"calls_per_s"`
	CPU         cpu     `json:"cpu_us_per_call"`

	fault string
}

type cpu struct {
	Envoy float64 `json:"envoy"`
	Mcpgw float64 `json:"mcpgw"`
}

// memory is RSS in bytes.
type memory struct {
	Idle         int64 `json:"idle_bytes"`
	Sessions     int   `json:"sessions"`
	WithSessions int64 `json:"with_sessions_bytes"`
}

func newReport(ctx context.Context) *report {
	r := &report{
		Hardware: hardware{CPU: processor(), Cores: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, LoadBefore: loadAverage()},
		Versions: versions{Mcpgw: "unknown", Envoy: envoy.Version(), Go: runtime.Version()},
	}
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil { // not where there is only an archive
		r.Versions.Mcpgw = string(bytes.TrimSpace(out))
	}
	return r
}

func (c *cell) row() row {
	slices.Sort(c.latencies)
	return row{
		Case: c.name, Era: c.era(), Connections: c.connections, Payload: c.payload, Requests: c.requests, Errors: c.errors,
		Median: quantile(c.latencies, 0.5), P99: quantile(c.latencies, 0.99),
		Rate: median(c.rate), CPU: cpu{Envoy: median(c.envoy), Mcpgw: median(c.mcpgw)}, fault: c.fault,
	}
}

// quantile of sorted values; 0 where there are none.
func quantile(sorted []uint32, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

// median of values, to a tenth; 0 where there are none.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	m := (v[(len(v)-1)/2] + v[len(v)/2]) / 2
	return math.Round(m*10) / 10
}

func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, v := range map[string]any{"bench.json": r, "memory.json": r.Memory} {
		if r.Memory == nil && name == "memory.json" {
			continue
		}
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// print writes the table. The last column compares with plain Envoy at the same connections and payload.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %d cores, %s/%s, load %s before and %s after; mcpgw %s, Envoy %s, %s\n\n",
		r.Hardware.CPU, r.Hardware.Cores, r.Hardware.OS, r.Hardware.Arch, r.Hardware.LoadBefore, r.Hardware.LoadAfter, r.Versions.Mcpgw, r.Versions.Envoy, r.Versions.Go)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "case\tera\tconns\tbytes\tcalls\terrors\tp50 ms\tp99 ms\tcalls/s\tCPU µs: Envoy\tmcpgw\tboth\t× plain\t")
	for _, x := range r.Rows {
		both, times := x.CPU.Envoy+x.CPU.Mcpgw, ""
		for _, p := range r.Rows {
			if p.Case == "plain" && p.Connections == x.Connections && near(p.Payload, x.Payload) && p.CPU.Envoy > 0 {
				times = fmt.Sprintf("%.2f", both/p.CPU.Envoy)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t%s\t\n", x.Case, x.Era, x.Connections, x.Payload, x.Requests, x.Errors,
			x.Median/1000, x.P99/1000, x.Rate, x.CPU.Envoy, x.CPU.Mcpgw, both, times)
	}
	_ = t.Flush() // w says so itself
	for _, x := range r.Rows {
		if x.Errors > 0 {
			fmt.Fprintf(w, "%s, %d connections, %d bytes: %d errors, the first: %s\n", x.Case, x.Connections, x.Payload, x.Errors, x.fault)
		}
	}
	if m := r.Memory; m != nil {
		mib := func(n int64) float64 { return float64(n) / (1 << 20) }
		fmt.Fprintf(w, "\nmemory of mcpgw: %.1f MiB idle, %.1f MiB more with %d legacy sessions\n", mib(m.Idle), mib(m.WithSessions-m.Idle), m.Sessions)
	}
}

// near reports whether two payloads were meant to be one: a list's request is a little shorter.
func near(a, b int) bool { return a/3 < b && b/3 < a }
