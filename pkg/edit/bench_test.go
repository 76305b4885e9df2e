package edit_test

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkRewriteOne sets one argument of a call of 300 bytes.
func BenchmarkRewriteOne(b *testing.B) {
	e := with(b, set("/max_count", "50"))
	text := []byte(`{"repo_path":"/srv/repositories/mcpgw","max_count":500,"text":"` + strings.Repeat("x", 230) + `"}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, n, err := e.Arguments(text, 4<<20); err != nil || n != 1 {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkRedactTenKilobytes replaces card numbers in a result of 10 KB that says everything twice.
func BenchmarkRedactTenKilobytes(b *testing.B) {
	rows := make([]string, 50)
	for n := range rows {
		rows[n] = fmt.Sprintf(`{"n":%d,"name":"somebody of some length","card":"41111111111111%02d","rest":"xxxxxxx"}`, n, n)
	}
	list := "[" + strings.Join(rows, ",") + "]"
	m := message(b, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":`+fmt.Sprintf("%q", list)+`}],"structuredContent":{"rows":`+list+`}}}`)
	e := with(b, pattern(`\b[0-9]{16}\b`, "[card]"))
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Body)))
	for b.Loop() {
		if _, err := e.Message(m, 4<<20); err != nil {
			b.Fatal(err)
		}
	}
}
