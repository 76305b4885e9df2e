package fault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/fault"
)

func TestKindsHaveOneRowEach(t *testing.T) {
	names := map[string]bool{}
	for k := fault.Internal; k <= fault.Upstream; k++ {
		if n := k.String(); n == "" || names[n] {
			t.Errorf("kind %d: name %q is empty or taken", k, n)
		} else {
			names[n] = true
		}
		if k.Status(false) == 0 || k.Status(true) == 0 || k.Code() == 0 {
			t.Errorf("%v: status %d/%d, code %d", k, k.Status(false), k.Status(true), k.Code())
		}
		// -32768..-32000 is JSON-RPC's; in it only codes that the specification defines may be sent.
		if c := k.Code(); c < 0 && c != -32700 && c != -32603 && c != -32602 && c != -32601 && c != -32600 && c != -32001 && (c < -32022 || c > -32020) {
			t.Errorf("%v: code %d is not ours to use", k, c)
		}
	}
	if fault.NoMethod.Status(true) != 200 || fault.NoMethod.Status(false) != 404 {
		t.Error("an unknown method must not end a legacy session with a 404")
	}
	if fault.Kind(200).Status(false) != 503 {
		t.Error("a kind outside the set must refuse as internal")
	}
}

func TestIsAndCause(t *testing.T) {
	cause := errors.New("10.0.0.1: refused")
	err := fmt.Errorf("list: %w", fault.New(fault.Upstream, "the server did not answer").Wrap(cause))
	if !errors.Is(err, fault.Upstream) || errors.Is(err, fault.Denied) || !errors.Is(err, cause) {
		t.Fatalf("%v: kinds or cause lost", err)
	}
	if got := string(fault.From(err).Reply(nil)); got != `{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the server did not answer"}}` {
		t.Errorf("the cause must not show: %s", got)
	}
	if e := fault.From(cause); e.Kind != fault.Internal || !errors.Is(e, cause) {
		t.Errorf("a plain error is internal: %v", e)
	}
}

func TestReplyKeepsTheID(t *testing.T) {
	for _, id := range []string{`9007199254740993`, `"a\"b"`, `-1`} {
		b := fault.New(fault.Denied, "no: %q", "x").With(json.RawMessage(`{"decision":"deny"}`)).Reply([]byte(id))
		var m struct {
			ID    json.RawMessage
			Error struct {
				Code    int
				Message string
				Data    map[string]string
			}
		}
		if err := json.Unmarshal(b, &m); err != nil || string(m.ID) != id || m.Error.Code != 403 || m.Error.Message != `no: "x"` || m.Error.Data["decision"] != "deny" {
			t.Errorf("%s: %v %+v", b, err, m)
		}
	}
}
