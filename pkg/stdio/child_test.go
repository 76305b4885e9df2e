package stdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The test binary plays children itself: playEnv names the part, and TestMain hands over to play.
const playEnv = "STDIO_TEST_CHILD"

// fifoEnv names a FIFO that a grandchild holds open for as long as it lives.
const fifoEnv = "STDIO_TEST_FIFO"

// socketEnv tells the stranger where to connect.
const socketEnv = "STDIO_TEST_SOCKET"

func play(part string) {
	switch part {
	case "sdk":
		playSDK(nil)
	case "sdk-legacy":
		playSDK([]string{"2025-11-25", "2025-06-18"})
	case "grandchild":
		f, err := os.OpenFile(os.Getenv(fifoEnv), os.O_WRONLY, 0)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		fmt.Fprintln(f, "alive")
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		forever()
	case "family":
		if os.Mkdir(os.Getenv(fifoEnv)+".once", 0o700) != nil { // a later child has no family
			playScript("modern")
			return
		}
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), playEnv+"=grandchild")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr // it holds the pipes open
		if err := c.Start(); err != nil {
			panic(err)
		}
		playScript("modern")
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		playScript("modern")
		forever() // stdin has ended; so what
	case "gateway":
		o := Options{Name: "g", Command: os.Args[0], Env: map[string]string{playEnv: "grandchild", fifoEnv: os.Getenv(fifoEnv)}, Socket: os.Getenv(socketEnv)}
		if err := New(o).Run(context.Background()); err != nil {
			panic(err)
		}
	case "stranger":
		c, err := net.Dial("unix", os.Getenv(socketEnv))
		if err != nil {
			panic(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		got, err := io.ReadAll(c)
		if len(got) == 0 {
			fmt.Print("closed")
			return
		}
		fmt.Printf("%q %v", got, err)
	default:
		playScript(part)
	}
}

// forever waits to be killed. An empty select would not do: without timers the runtime calls it a deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// script is a child that does what the arguments of tools/call say.
type script struct {
	part string
	mu   sync.Mutex
	out  *bufio.Writer
	// cancelled are the request ids of notifications/cancelled.
	cancelled []string
	listens   []string          // ids of subscriptions/listen
	answers   []json.RawMessage // to the child's own requests
}

type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
		RequestID json.RawMessage `json:"requestId"`
		Meta      map[string]json.RawMessage
	} `json:"params"`
	raw string
}

func (m *message) UnmarshalJSON(b []byte) error {
	type plain message
	if err := json.Unmarshal(b, (*plain)(m)); err != nil {
		return err
	}
	var meta struct {
		Params struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		} `json:"params"`
	}
	m.raw, m.Params.Meta = string(b), nil
	if err := json.Unmarshal(b, &meta); err != nil {
		return err
	}
	m.Params.Meta = meta.Params.Meta
	return nil
}

func (s *script) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
	s.out.Flush()
}

// hastyEnv names the file in which a hasty child counts its starts.
const hastyEnv = "STDIO_TEST_STARTS"

func playScript(part string) {
	if part == "hasty" { // speaks both eras, and its second start goes wrong
		f, err := os.OpenFile(os.Getenv(hastyEnv), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprint(f, "x")
		f.Close()
		if starts, err := os.ReadFile(os.Getenv(hastyEnv)); err != nil || len(starts) == 2 {
			os.Exit(8)
		}
	}
	s := &script{part: part, out: bufio.NewWriter(os.Stdout)}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			fmt.Fprintf(os.Stderr, "child cannot read %q: %v\n", line, err)
			continue
		}
		m.raw = string(bytes.TrimSuffix(line, []byte("\n")))
		s.serve(&m)
	}
}

func (s *script) serve(m *message) {
	switch m.Method {
	case "server/discover":
		switch s.part {
		case "modern", "hasty":
			s.say(`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private"}}`, m.ID)
		case "deaf":
			s.say(`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}}`, m.ID)
			forever() // reads nothing any more
		case "late": // answers the probe only when initialize is there too, then refuses that
			s.cancelled = append(s.cancelled, string(m.ID))
		case "legacy":
			s.say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32602,"message":"Invalid request parameters","data":""}}`, m.ID)
		case "other":
			s.say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"no","data":{"supported":["2031-01-01"],"requested":"2026-07-28"}}}`, m.ID)
		case "silent": // an old server that ignores what it does not know
		case "fragile": // one that does not survive it
			os.Exit(9)
		}
	case "initialize":
		if s.part == "late" {
			s.say(`{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{}}}`, s.cancelled[0])
			s.say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"],"requested":"2025-11-25"}}}`, m.ID)
			return
		}
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"tasks":{"list":{}}},"serverInfo":{"name":"script","version":"1"},"x":9007199254740993}}`, m.ID)
	case "notifications/cancelled":
		s.cancelled = append(s.cancelled, string(m.Params.RequestID))
	case "tools/call":
		s.call(m)
	case "subscriptions/listen":
		s.listens = append(s.listens, string(m.ID))
		s.say(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":%s},"notifications":{}}}`, m.ID)
	case "": // the answer to a request of the child's own
		s.answers = append(s.answers, json.RawMessage(m.raw))
	default:
		if len(m.ID) > 0 {
			s.say(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID)
		}
	}
}

// ends of a result, so that cases stay one line.
const done = `"resultType":"complete","content":[]`

func (s *script) call(m *message) {
	switch m.Params.Name {
	case "raw": // what the child was sent, and how it answers: order, unknown members, numbers
		quoted, _ := json.Marshal(m.raw)
		s.say("{ \"result\" : {%s,\"n\":9007199254740993,\"f\":1.0,\"structuredContent\":{\"raw\":%s}} ,\r \"id\":%s,\"jsonrpc\":\"2.0\"}\r", done, quoted, m.ID)
	case "progress":
		for i := range 3 {
			s.say(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"progressToken":%s,"x":1.0}}`, i, m.Params.Meta["progressToken"])
		}
		s.say(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"whose is this?"}}`)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "crash":
		os.Exit(3)
	case "long-line":
		block := strings.Repeat("x", 1<<20)
		for range 20 {
			os.Stdout.WriteString(block)
		}
	case "never":
		s.say(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`) // says that the call has come
	case "flood":
		for i := range 20000 {
			fmt.Fprintln(os.Stderr, "noise", i)
		}
		fmt.Fprintln(os.Stderr, strings.Repeat("y", 1<<20))
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "nonsense":
		s.say(`hello`)
		s.say(`[]`)
		s.say(`{"jsonrpc":"2.0","id":123456789,"result":{}}`)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{},"id":7}`, m.ID)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{"a":1,"a":2}}`, m.ID)
	case "ask":
		s.say(`{"jsonrpc":"2.0","id":"p","method":"ping"}`)
		s.say(`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "cancelled":
		list, _ := json.Marshal(s.cancelled)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s,"structuredContent":{"cancelled":%s}}}`, m.ID, done, list)
	case "answers":
		list, _ := json.Marshal(s.answers)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s,"structuredContent":{"answers":%s}}}`, m.ID, done, list)
	case "tell":
		for _, id := range s.listens {
			s.say(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":%s}}}`, id)
		}
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "teardown":
		s.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}`, s.listens[0])
		s.say(`{"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":%s},"resultType":"complete"},"jsonrpc":"2.0","id":%s}`, s.listens[1], s.listens[1])
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "changed":
		s.say(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
		s.say(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///x"}}`)
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s}}`, m.ID, done)
	case "environment":
		list, _ := json.Marshal(os.Environ())
		s.say(`{"jsonrpc":"2.0","id":%s,"result":{%s,"structuredContent":{"environment":%s}}}`, m.ID, done, list)
	}
}

// playSDK is a server of the official Go SDK with what the bridge must carry: change notices, progress, and elicitation.
func playSDK(versions []string) {
	server := mcp.NewServer(&mcp.Implementation{Name: "sdk", Version: "1"}, &mcp.ServerOptions{
		SupportedProtocolVersions: versions,
		Capabilities:              &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}, Logging: &mcp.LoggingCapabilities{}}, //nolint:staticcheck // deprecated, and still spoken
	})
	text := func(s string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
	}
	n := 0
	mcp.AddTool(server, &mcp.Tool{Name: "add"}, func(_ context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		n++
		mcp.AddTool(server, &mcp.Tool{Name: "added" + strconv.Itoa(n)}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return text("new"), nil, nil
		})
		return text("added"), nil, nil
	})
	mcp.AddTool(server, &mcp.Tool{Name: "steps"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		for i := range 3 {
			err := r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i + 1)})
			if err != nil {
				return nil, nil, err
			}
		}
		return text("stepped"), nil, nil
	})
	mcp.AddTool(server, &mcp.Tool{Name: "ask"}, func(ctx context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		res, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "who?", RequestedSchema: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}}}`)})
		if err != nil {
			return nil, nil, err
		}
		return text(fmt.Sprintf("%s %v", res.Action, res.Content["name"])), nil, nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := server.Run(ctx, &mcp.StdioTransport{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
