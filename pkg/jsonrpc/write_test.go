package jsonrpc_test

import (
	"testing"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

func TestSplice(t *testing.T) {
	const body = "0123456789"
	for _, c := range []struct {
		edits []jsonrpc.Edit
		want  string
	}{
		{nil, body},
		{[]jsonrpc.Edit{{Pos: 0, Len: 10}}, ""},
		{[]jsonrpc.Edit{{2, 3, []byte("abcdef")}}, "01abcdef56789"},
		{[]jsonrpc.Edit{{0, 0, []byte("<")}, {5, 1, nil}, {6, 1, []byte("x")}, {10, 0, []byte(">")}}, "<01234x789>"},
		{[]jsonrpc.Edit{{3, 0, []byte("a")}, {3, 0, []byte("b")}}, "012ab3456789"},
	} {
		if got := string(jsonrpc.Splice([]byte(body), c.edits...)); got != c.want {
			t.Errorf("Splice(%v) = %s, want %s", c.edits, got, c.want)
		}
	}
	for _, edits := range [][]jsonrpc.Edit{{{5, 2, nil}, {6, 1, nil}}, {{6, 1, nil}, {5, 1, nil}}, {{8, 3, nil}}, {{-1, 1, nil}}, {{5, -1, nil}}, {{1 << 62, 1 << 62, nil}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Splice(%v) did not panic", edits)
				}
			}()
			jsonrpc.Splice([]byte(body), edits...)
		}()
	}
}

func TestResponses(t *testing.T) {
	for got, want := range map[string]string{
		string(jsonrpc.Result([]byte(`"a"`), []byte(`{"x":1.0}`))):                        `{"jsonrpc":"2.0","id":"a","result":{"x":1.0}}`,
		string(jsonrpc.Result(nil, nil)):                                                  `{"jsonrpc":"2.0","id":null,"result":{}}`,
		string(jsonrpc.Failure([]byte(`12`), -32600, "a \"b\"\n\xff", []byte(`{"d":1}`))): `{"jsonrpc":"2.0","id":12,"error":{"code":-32600,"message":"a \"b\"\n` + "\ufffd" + `","data":{"d":1}}}`,
		string(jsonrpc.Failure(nil, 403, "<no>", nil)):                                    `{"jsonrpc":"2.0","id":null,"error":{"code":403,"message":"<no>"}}`,
		string(jsonrpc.AppendString([]byte("x"), "ä\u2028\x00\\/")):                       `x"ä` + "\u2028" + `\u0000\\/"`,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
