package harness

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/mcpgw/mcpgw/test/collector"
)

// StartCollector starts a collector and returns it with the address that takes OTLP over gRPC.
func StartCollector(t testing.TB) (*collector.Collector, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("collector: %v", err)
	}
	c, s := collector.New(), grpc.NewServer()
	c.Register(s)
	go s.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(s.Stop)
	return c, l.Addr().String()
}

// AwaitSpans waits until the collector's spans are as wanted and returns them.
func AwaitSpans(t testing.TB, c *collector.Collector, patience time.Duration, wanted func([]collector.Span) bool) []collector.Span {
	t.Helper()
	after := time.After(patience)
	for {
		changed := c.Changed()
		spans := c.Spans()
		if wanted(spans) {
			return spans
		}
		select {
		case <-changed:
		case <-after:
			t.Fatalf("the spans are not as wanted within %v:\n%s", patience, collector.Tree(spans))
		}
	}
}
