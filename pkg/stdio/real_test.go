package stdio

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// tools is the directory with the servers that nobody here wrote.
func tools(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("MCPGW_TOOLS"); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".tools")
		}
	}
	t.Fatal("no go.mod above the working directory")
	return ""
}

// python makes a child of a Python module.
func python(t testing.TB, o *Options, module string, args ...string) {
	t.Helper()
	dir := filepath.Join(tools(t), "python")
	if _, err := os.Stat(filepath.Join(dir, module)); err != nil {
		t.Fatalf("%v; run make tools", err)
	}
	o.Command, o.Args, o.Env = "python3", append([]string{"-m", module}, args...), map[string]string{"PYTHONPATH": dir}
}

// everything makes a child of the reference server for Node, which speaks the legacy era only.
func everything(t testing.TB, o *Options) {
	t.Helper()
	dir := filepath.Join(tools(t), "node", "node_modules")
	script := filepath.Join(dir, "@modelcontextprotocol", "server-everything", "dist", "index.js")
	if _, err := os.Stat(script); err != nil {
		t.Fatalf("%v; run make tools", err)
	}
	o.Command, o.Args, o.Env = filepath.Join(dir, ".bin", "node"), []string{script, "stdio"}, nil
}

// client connects a client of the official Go SDK to the bridge.
func (b *bridge) client(o *mcp.ClientOptions) *mcp.ClientSession {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, o)
	s, err := c.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: "http://test/mcp", HTTPClient: b.c}, nil)
	if err != nil {
		b.t.Fatalf("connect: %v\n%s", err, b.log)
	}
	b.t.Cleanup(func() { s.Close() })
	return s
}

func words(r *mcp.CallToolResult) string {
	var all []string
	for _, c := range r.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			all = append(all, t.Text)
		}
	}
	return strings.Join(all, "\n")
}

func TestServerTime(t *testing.T) {
	b := start(t, "", func(o *Options) { python(t, o, "mcp_server_time") })
	if st := b.s.State(); st.Era != "modern" {
		t.Errorf("state %+v", st)
	}
	b.want(b.post(`{"jsonrpc":"2.0","id":"d","method":"server/discover","params":{`+meta+`}}}`, ""), 200, `"id":"d"`, `"supportedVersions":["2026-07-28"]`)
	b.want(b.post(`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{`+meta+`}}}`, ""), 200, `"id":2`, `get_current_time`)
	got := b.post(`{"jsonrpc":"2.0","id":3,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+meta+`}}}`, "")
	b.want(got, 404, `-32601`)

	s := b.client(nil)
	if v := s.InitializeResult().ProtocolVersion; v != "2026-07-28" {
		t.Errorf("the client speaks %s", v)
	}
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "get_current_time", Arguments: map[string]any{"timezone": "UTC"}})
	if err != nil || res.IsError || !strings.Contains(words(res), "UTC") {
		t.Errorf("%v %+v", err, res)
	}
}

func TestServerGit(t *testing.T) {
	repo := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=n", "-c", "user.email=e@example.com", "commit", "-q", "--allow-empty", "-m", "the first"}} {
		c := exec.Command("git", args...)
		c.Dir = repo
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
	}
	b := start(t, "", func(o *Options) { python(t, o, "mcp_server_git", "--repository", repo) })
	s := b.client(nil)
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "git_log", Arguments: map[string]any{"repo_path": repo, "max_count": 1}})
	if err != nil || res.IsError || !strings.Contains(words(res), "the first") {
		t.Errorf("%v %+v", err, res)
	}
}

// The SDK's server speaks both eras; it is spoken to as modern, change notices and progress included.
func TestSDKModern(t *testing.T) {
	b := start(t, "sdk", nil)
	changed, steps := make(chan struct{}, 10), make(chan float64, 10)
	s := b.client(&mcp.ClientOptions{
		ToolListChangedHandler:      func(context.Context, *mcp.ToolListChangedRequest) { changed <- struct{}{} },
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { steps <- r.Params.Progress },
	})
	params := &mcp.CallToolParams{Name: "steps"}
	params.SetProgressToken("p")
	if res, err := s.CallTool(t.Context(), params); err != nil || words(res) != "stepped" {
		t.Errorf("%v %+v", err, res)
	}
	for want := 1.0; want <= 3; want++ {
		select {
		case got := <-steps:
			if got != want {
				t.Errorf("step %v, want %v", got, want)
			}
		case <-time.After(patience):
			t.Fatal("no progress")
		}
	}
	if _, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "add"}); err != nil {
		t.Error(err)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Fatal("no word of the changed list")
	}
}

// The SDK's server knows one listener a connection (v1.8.0), so each has a child of its own here.
func TestSDKListen(t *testing.T) {
	for _, id := range []string{`"one"`, `1`} {
		b := start(t, "sdk", nil)
		ctx, cancel := context.WithCancel(t.Context())
		events := b.stream(b.request(ctx, listenRequest(id), ""))
		want := `"io.modelcontextprotocol/subscriptionId":` + id
		if e := b.next(events); !strings.Contains(e, "acknowledged") || !strings.Contains(e, want) {
			t.Errorf("first event %s", e)
		}
		b.want(b.post(tool(id, "add", ``), ""), 200, `"id":`+id)
		if e := b.next(events); !strings.Contains(e, "tools/list_changed") || !strings.Contains(e, want) {
			t.Errorf("second event %s", e)
		}
		cancel()
		b.next(events)
	}
}

// A legacy child of its own asks the client of its session.
func TestElicitationThroughOwnChild(t *testing.T) {
	b := start(t, "sdk-legacy", func(o *Options) { o.Share = ShareSession })
	for _, name := range []string{"ann", "bob"} {
		s := b.client(&mcp.ClientOptions{ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": name}}, nil
		}})
		res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "ask"})
		if err != nil || words(res) != "accept "+name {
			t.Errorf("%v %+v", err, res)
		}
	}
	if st := b.s.State(); st.Processes != 2 {
		t.Errorf("state %+v", st)
	}
}

func TestServerEverything(t *testing.T) {
	for _, share := range []Share{ShareAll, ShareSession} {
		t.Run(string(share), func(t *testing.T) {
			b := start(t, "", func(o *Options) { everything(t, o); o.Share = share })
			steps := make(chan float64, 10)
			s := b.client(&mcp.ClientOptions{
				ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { steps <- r.Params.Progress },
				ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
					return &mcp.ElicitResult{Action: "decline"}, nil
				},
			})
			if v := s.InitializeResult().ProtocolVersion; v != "2025-11-25" {
				t.Errorf("the client speaks %s", v)
			}
			params := &mcp.CallToolParams{Name: "trigger-long-running-operation", Arguments: map[string]any{"duration": 0.2, "steps": 2}}
			params.SetProgressToken("p")
			res, err := s.CallTool(t.Context(), params)
			if err != nil || !strings.Contains(words(res), "completed") {
				t.Errorf("%v %+v", err, res)
			}
			for want := 1.0; want <= 2; want++ {
				select {
				case got := <-steps:
					if got != want {
						t.Errorf("step %v, want %v", got, want)
					}
				case <-time.After(patience):
					t.Fatal("no progress")
				}
			}
			list, err := s.ListTools(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			asks := false
			for _, tool := range list.Tools {
				asks = asks || tool.Name == "trigger-elicitation-request"
			}
			if asks != (share == ShareSession) { // the server offers it to clients that can be asked, and the shared child has none
				t.Errorf("offers to ask the client: %v", asks)
			}
			if !asks {
				return
			}
			res, err = s.CallTool(t.Context(), &mcp.CallToolParams{Name: "trigger-elicitation-request"})
			if err != nil || !strings.Contains(words(res), "decline") {
				t.Errorf("%v %s", err, words(res))
			}
		})
	}
}

// stream sends a request and gives its events one by one.
func (b *bridge) stream(r *http.Request) <-chan string {
	b.t.Helper()
	res, err := b.c.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.events(res)
}

// BenchmarkTime measures a call of mcp-server-time: straight over its pipes, and through the bridge.
func BenchmarkTime(b *testing.B) {
	call := tool(`1`, "get_current_time", ``)
	call = strings.Replace(call, `"arguments":{}`, `"arguments":{"timezone":"UTC"}`, 1)
	b.Run("pipes", func(b *testing.B) {
		var o Options
		python(b, &o, "mcp_server_time")
		c := exec.Command(o.Command, o.Args...)
		c.Env = append(os.Environ(), "PYTHONPATH="+o.Env["PYTHONPATH"])
		in, _ := c.StdinPipe()
		out, _ := c.StdoutPipe()
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		d := json.NewDecoder(out)
		ask := func() {
			var m json.RawMessage
			if _, err := in.Write([]byte(call + "\n")); err != nil {
				b.Fatal(err)
			}
			if err := d.Decode(&m); err != nil {
				b.Fatal(err)
			}
		}
		ask() // the interpreter's start is not measured
		for b.Loop() {
			ask()
		}
		in.Close()
		_ = c.Wait()
	})
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("bridge-%d", callers), func(b *testing.B) {
			br := start(b, "", func(o *Options) { python(b, o, "mcp_server_time"); o.Log = nil })
			br.post(call, "")
			b.SetParallelism(callers)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if got := br.post(call, ""); got.status != 200 {
						b.Error(got)
					}
				}
			})
		})
	}
	// What the bridge itself costs: the child is a few lines of Go.
	b.Run("bridge-script", func(b *testing.B) {
		br := start(b, "modern", func(o *Options) { o.Log = nil })
		b.ReportAllocs()
		for b.Loop() {
			if got := br.post(tool(`1`, "raw", ``), ""); got.status != 200 {
				b.Error(got)
			}
		}
	})
}
