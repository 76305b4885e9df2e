package chaos

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// childEnv makes the test binary a stdio server of the official Go SDK that misbehaves on demand.
const childEnv = "CHAOS_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

func child() {
	server := mcp.NewServer(&mcp.Implementation{Name: "child", Version: "1"}, nil)
	type textArguments struct {
		Text string `json:"text"`
	}
	tool := func(name string, does func(ctx context.Context, text string) string) {
		mcp.AddTool(server, &mcp.Tool{Name: name}, func(ctx context.Context, _ *mcp.CallToolRequest, in textArguments) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: does(ctx, in.Text)}}}, nil, nil
		})
	}
	tool("echo", func(_ context.Context, text string) string { return text })
	tool("pid", func(context.Context, string) string { return fmt.Sprint(os.Getpid()) })
	tool("crash", func(context.Context, string) string { os.Exit(3); return "" })
	tool("never", func(ctx context.Context, _ string) string { <-ctx.Done(); select {} })
	tool("flood", func(context.Context, string) string {
		out := bufio.NewWriter(os.Stderr)
		for i := range 100_000 {
			fmt.Fprintln(out, "noise", i)
		}
		fmt.Fprintln(out, strings.Repeat("y", 1<<20))
		_ = out.Flush() // nobody could be told
		return "flooded"
	})
	tool("long", func(context.Context, string) string { // 20 MiB without an end of line
		if _, err := os.Stdout.WriteString(strings.Repeat("x", 20<<20)); err != nil { // in one write: another message must not come between
			return "refused"
		}
		return "written"
	})
	if err := server.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// stdioServer is the configuration of one such child.
func stdioServer(name, more string) string {
	return fmt.Sprintf("  - { name: %s, stdio: { command: %q, env: { %s: { value: \"1\" } } }%s }\n", name, os.Args[0], childEnv, more)
}
