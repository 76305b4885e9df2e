package stdio

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// The id is found wherever it stands, whatever else looks like one.
func TestIDPos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]string{`1`, `"id"`, `-9007199254740993`, `"\"id\":2"`, `""`}).Draw(t, "id")
		members := []string{`"jsonrpc":"2.0"`, `"id" : ` + id}
		members = append(members, rapid.SampledFrom([][]string{
			{`"method":"m"`},
			{`"method":"m"`, `"params":{"id":7,"name":"\"id\":3"}`},
			{`"result":{"id":1}`},
			{`"result":"id"`},
			{`"error":{"code":1,"message":"\"id\":1"}`},
		}).Draw(t, "kind")...)
		if rapid.Bool().Draw(t, "more") {
			members = append(members, `"x":{"id":1}`, `"y":"id"`)
		}
		space := rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space")
		body := []byte("{" + space + strings.Join(rapid.Permutation(members).Draw(t, "order"), ","+space) + space + "}")
		m, err := jsonrpc.Read(body, jsonrpc.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if pos := idPos(m); string(body[pos:pos+len(id)]) != id || !bytes.HasSuffix(body[:pos], []byte(`"id" : `)) {
			t.Fatalf("id of %s found at %d", body, pos)
		}
	})
}

func TestLineReader(t *testing.T) {
	const bound = 200 << 10
	long := strings.Repeat("z", bound-1)
	in := "one\n\r\n \n  two\rx\r\n" + long + "\nlast"
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in))} {
		lines := newLineReader(r, bound)
		for _, want := range []string{"one", "two x", long, "last"} {
			if got, err := lines.next(); err != nil || string(got) != want {
				t.Errorf("%s: line %.20q of %d bytes, %v; want %.20q", name, got, len(got), err, want)
			}
		}
		if _, err := lines.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
	lines := newLineReader(strings.NewReader(long+"zz\nnext\n"), bound)
	if _, err := lines.next(); !errors.Is(err, errLineTooLong) {
		t.Errorf("%v, want %v", err, errLineTooLong)
	}
}
