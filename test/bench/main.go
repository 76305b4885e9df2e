// Command bench measures what one call through the gateway costs, beside plain Envoy to the same server.
//
// It starts a small echo server, a load generator, a plain Envoy and some gateways, each a process of its own, so that the processes'
// own accounts tell CPU time apart. Cases take turns in short blocks, so that whatever else the machine does falls on all of them, and
// every figure is a median over blocks. It prints a table and writes .out/bench.json; what memory a gateway takes goes to
// .out/memory.json.
//
//	go run ./test/bench                                         everything
//	go run ./test/bench -cases plain,direct -connections 16     a part
//	go run ./test/bench -cases direct -profile .out/profiles    with CPU and allocation profiles of the gateways
//
// The echo tool returns its text, so a payload of 1 MB travels both ways. With -profile the figures are a little higher.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roleVariable names the part that a process of this program plays; empty in the one that a person starts.
const roleVariable = "MCPGW_BENCH_ROLE"

// roles are the parts that run in processes of their own.
var roles = map[string]func() error{"backend": backendRole, "collector": collectorRole, "gateway": gatewayRole, "load": loadRole}

func main() {
	if role := roles[os.Getenv(roleVariable)]; role != nil {
		exit(role())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(command(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are what a run measures.
type options struct {
	cases       []string // names; empty: all
	connections []int
	payloads    []int
	seconds     float64 // of load for each row, all its blocks together
	blocks      int
	sessions    int // opened for the memory report; 0: no report
	profile     string
	out         string // directory of the reports
	progress    io.Writer
}

// quick is a run that only shows that everything works.
var quick = options{connections: []int{1, 4}, payloads: []int{300, 10_000}, seconds: 0.04, blocks: 2, sessions: 50}

func command(ctx context.Context, args []string, out io.Writer) error {
	o := options{progress: os.Stderr}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	cases := f.String("cases", "", "comma-separated `names` of cases; default all")
	connections := f.String("connections", "1,16,64", "comma-separated `counts` of client connections")
	payloads := f.String("payloads", "300,10000,1000000", "comma-separated `bytes` of request bodies")
	f.Float64Var(&o.seconds, "seconds", 2.5, "load for each row, all its blocks together")
	f.IntVar(&o.blocks, "blocks", 5, "blocks that a row is measured in, in turns with the other rows")
	f.IntVar(&o.sessions, "sessions", 5000, "legacy sessions opened for the memory report; 0 for no report")
	f.StringVar(&o.profile, "profile", "", "`directory` for CPU and allocation profiles of the gateways")
	f.StringVar(&o.out, "out", ".out", "`directory` of the reports")
	small := f.Bool("quick", false, "a few calls of everything, to see that it works; the figures mean nothing")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.connections, err = numbers(*connections, 1, 1024); err != nil {
		return fmt.Errorf("-connections: %w", err)
	}
	if o.payloads, err = numbers(*payloads, 300, 4_000_000); err != nil {
		return fmt.Errorf("-payloads: %w", err)
	}
	if *small {
		o.connections, o.payloads, o.seconds, o.blocks, o.sessions = quick.connections, quick.payloads, quick.seconds, quick.blocks, quick.sessions
	}
	if *cases != "" {
		o.cases = strings.Split(*cases, ",")
	}
	if o.seconds <= 0 || o.seconds > 600 || o.blocks < 1 || o.blocks > 100 {
		return errors.New("-seconds wants up to 600, -blocks 1 to 100")
	}
	began := time.Now()
	r, err := run(ctx, o)
	if err != nil {
		return err
	}
	if err := r.write(o.out); err != nil {
		return err
	}
	r.print(out)
	_, err = fmt.Fprintf(out, "\n%s written after %s\n", filepath.Join(o.out, "bench.json"), time.Since(began).Round(time.Second))
	return err
}

func numbers(list string, least, most int) ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%q: want numbers from %d to %d", s, least, most)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
