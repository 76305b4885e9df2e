package jsonrpc_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// call is a tools/call of 300 bytes, as a modern client sends it.
const call = `{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"git_log","arguments":{"repo_path":"/srv/repo","max_count":10},` +
	`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"progressToken":"t-000017-00000000"}}}`

// sized returns a tools/call of about n bytes: an array of records, as a bulk insert sends it.
func sized(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"insert","arguments":{"rows":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"row number %d","ok":true,"ratio":0.25,"tags":["a","b\n"]}`, i, i)
	}
	b.WriteString(`]}}}`)
	return []byte(b.String())
}

func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name string
		body []byte
	}{{"300B", []byte(call)}, {"10KB", sized(10 << 10)}, {"1MB", sized(1 << 20)}, {"1MB text", oneString(1 << 20)}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jsonrpc.Read(c.body, jsonrpc.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// oneString returns a tools/call with one string of n bytes.
func oneString(n int) []byte {
	return []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write","arguments":{"text":"` + strings.Repeat("lorem ipsum ", n/12) + `"}}}`)
}
