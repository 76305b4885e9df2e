// Command collector takes traces over OTLP/gRPC and prints each as a tree, once nothing more has come for
// it for a second.
//
//	collector -listen 127.0.0.1:4317
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/mcpgw/mcpgw/test/collector"
)

// quiet is how long a trace must have been still to be printed: its spans come from several processes,
// each of which sends in batches.
const quiet = time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:4317", "`address` to listen on")
	flag.Parse()
	if err := serve(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func serve(listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	c := collector.New()
	s := grpc.NewServer()
	c.Register(s)
	go printQuiet(c)
	return s.Serve(l)
}

// printQuiet runs as long as the program.
func printQuiet(c *collector.Collector) {
	type state struct {
		spans   int
		since   time.Time
		printed bool
	}
	traces := map[string]state{}
	for now := range time.Tick(quiet / 4) {
		count := map[string]int{}
		for _, s := range c.Spans() {
			count[s.TraceID]++
		}
		for id, n := range count {
			was := traces[id]
			switch {
			case was.spans != n:
				traces[id] = state{spans: n, since: now}
			case !was.printed && now.Sub(was.since) >= quiet:
				fmt.Printf("trace %s\n%s\n", id, collector.Tree(c.Trace(id)))
				was.printed = true
				traces[id] = was
			}
		}
		for id := range traces {
			if count[id] == 0 {
				delete(traces, id)
			}
		}
	}
}
