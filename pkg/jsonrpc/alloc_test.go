//go:build !race

package jsonrpc_test

// The race detector makes sync.Pool forget at random, so allocations are counted without it.

import (
	"testing"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// readAllocs is what reading a small tools/call may allocate: the message, the names of its members, the members, the method.
const readAllocs = 4

func TestReadAllocations(t *testing.T) {
	if len(call) < 290 || len(call) > 310 {
		t.Fatalf("the measured call has %d bytes", len(call))
	}
	body := []byte(call)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := jsonrpc.Read(body, jsonrpc.Limits{}); err != nil {
			t.Fatal(err)
		}
	}); n > readAllocs {
		t.Errorf("Read allocates %v times, the budget is %d", n, readAllocs)
	}
}
