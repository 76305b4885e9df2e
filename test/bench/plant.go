package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/envoyproc"
)

// startup bounds how long anything may take to serve.
const startup = 60 * time.Second

// plant is everything that runs.
type plant struct {
	dir       string
	envoy     string // the binary
	profile   string
	backend   string // address
	collector string // address
	load      *child
	children  []*child
}

// child is a process of ours.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	log   *tail
	ended chan struct{}

	foreign bool // no part of this program: its standard input means nothing to it
}

// tail keeps the end of what a process says.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if most := 16 << 10; len(t.b) > 2*most {
		t.b = append([]byte(nil), t.b[len(t.b)-most:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// start starts this program in a role. It ends when its standard input does.
func (p *plant) start(ctx context.Context, role, dir string, env []string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return p.startProgram(ctx, dir, append(env, roleVariable+"="+role), self)
}

func (p *plant) startProgram(_ context.Context, dir string, env []string, name string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(name, args...), log: &tail{}, ended: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env, c.cmd.Stderr = dir, append(os.Environ(), env...), c.log
	c.cmd.SysProcAttr, c.cmd.WaitDelay = attributes(), time.Second
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReaderSize(out, 1<<20)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	p.children = append(p.children, c)
	go func() {
		_, _ = c.cmd.Process.Wait() // how it ended does not matter to us
		close(c.ended)
	}()
	return c, nil
}

func (c *child) line() (string, error) {
	s, err := c.out.ReadString('\n')
	return strings.TrimSuffix(s, "\n"), err
}

// end closes the process's standard input, and sends it a signal where that does not end it. A foreign program gets one at once.
func (c *child) end() {
	_ = c.stdin.Close()
	for i, signal := range []os.Signal{os.Interrupt, os.Interrupt, os.Kill} {
		if i > 0 || c.foreign {
			_ = c.cmd.Process.Signal(signal)
		}
		select {
		case <-c.ended:
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// newPlant starts what every case needs.
func newPlant(ctx context.Context, profile string) (p *plant, err error) {
	p = &plant{profile: profile}
	if p.dir, err = os.MkdirTemp("", "mcpgw-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.envoy, err = findEnvoy(); err != nil {
		return nil, err
	}
	if err := envoyproc.CheckVersion(ctx, p.envoy); err != nil {
		return nil, err
	}
	serve := func(role string) (string, error) {
		c, err := p.start(ctx, role, p.dir, nil)
		if err != nil {
			return "", err
		}
		return c.line()
	}
	if p.backend, err = serve("backend"); err != nil {
		return nil, err
	}
	if p.collector, err = serve("collector"); err != nil {
		return nil, err
	}
	p.load, err = p.start(ctx, "load", p.dir, nil)
	return p, err
}

// close ends everything, gateways first.
func (p *plant) close() {
	var group sync.WaitGroup
	for _, c := range p.children {
		group.Go(c.end)
	}
	group.Wait()
	_ = os.RemoveAll(p.dir) // in the system's temporary directory, should anything stay
}

// findEnvoy looks where mcpgw does, from the repository's root as well as from this folder, where go test runs.
func findEnvoy() (string, error) {
	const above = "../../.tools/envoy/envoy/_bin/envoy"
	if _, err := os.Stat(above); err == nil && os.Getenv("ENVOY") == "" {
		return filepath.Abs(above)
	}
	return envoyproc.Find()
}

// target is a subject that runs.
type target struct {
	subject
	address      string
	envoy, mcpgw int // process ids; no mcpgw for plain Envoy
	child        *child
	sessions     []string // of legacy clients, one for each connection
}

func (p *plant) startSubject(ctx context.Context, s subject) (*target, error) {
	if s.gateway {
		return p.startGateway(ctx, s)
	}
	return p.startPlain(ctx, s)
}

// startPlain starts an Envoy that does nothing but pass requests on.
func (p *plant) startPlain(ctx context.Context, s subject) (*target, error) {
	host, port, err := net.SplitHostPort(p.backend)
	if err != nil {
		return nil, err
	}
	admin := filepath.Join(p.dir, "plain.sock")
	text := fmt.Sprintf(`
admin: {address: {pipe: {path: %q}}}
static_resources:
  listeners:
  - name: plain
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: plain
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: backend, timeout: 0s}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
  clusters:
  - name: backend
    type: STATIC
    load_assignment: {cluster_name: backend, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %q, port_value: %s}}}}]}]}
`, admin, host, port)
	file := filepath.Join(p.dir, "plain.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	c, err := p.startProgram(ctx, p.dir, nil, p.envoy, "-c", file, "--disable-hot-restart", "--log-level", "warning", "--use-dynamic-base-id")
	if err != nil {
		return nil, err
	}
	c.foreign = true
	t := &target{subject: s, child: c, envoy: c.cmd.Process.Pid}
	err = eventually(ctx, "plain Envoy serves", func() error {
		if t.address, err = plainAddress(ctx, admin); err != nil {
			return err
		}
		conn, err := net.Dial("tcp", t.address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, c.log)
	}
	return t, nil
}

// plainAddress asks Envoy which port it got.
func plainAddress(ctx context.Context, admin string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", admin)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/listeners?format=json", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var said struct {
		Statuses []struct {
			Address struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return "", err
	}
	if len(said.Statuses) != 1 || said.Statuses[0].Address.Socket.Port == 0 {
		return "", errors.New("no listener yet")
	}
	return fmt.Sprintf("127.0.0.1:%d", said.Statuses[0].Address.Socket.Port), nil
}

// eventually asks until there is no error.
func eventually(ctx context.Context, what string, holds func() error) error {
	ctx, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s: %w", startup, what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitTools waits until every endpoint shows all its tools.
func (t *target) awaitTools(ctx context.Context) error {
	for path, want := range map[string]int{"/mcp/echo": 2, "/mcp/both": 2, "/mcp/twenty": 20, "/mcp/thousand": 1000} {
		s := scenario{path: path, method: list, tools: want}
		if err := eventually(ctx, path+" is complete", func() error { _, _, err := t.once(ctx, s, requestBody(s, 0)); return err }); err != nil {
			return fmt.Errorf("%w\n%s", err, t.child.log)
		}
	}
	return nil
}

// once makes one call in the ordinary way, reads its answer as JSON and checks what it means.
func (t *target) once(ctx context.Context, s scenario, body []byte) (answer []byte, header http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.address+s.path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, value := range t.headers(s, 0) {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if body := answer; resp.StatusCode == http.StatusAccepted && len(body) == 0 {
		return nil, resp.Header, nil // a notification
	}
	var said struct {
		ID     json.RawMessage `json:"id"`
		Result *struct {
			Tools   []json.RawMessage `json:"tools"`
			Next    *string           `json:"nextCursor"`
			IsError bool              `json:"isError"`
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
	}
	if err := json.Unmarshal(answer, &said); err != nil || resp.StatusCode != http.StatusOK || said.Result == nil || said.Result.IsError {
		return nil, nil, fmt.Errorf("%s %s: status %d: %.500q (%w)", s.method, s.path, resp.StatusCode, answer, err)
	}
	if want, _ := between(body, `"id":`, ','); string(said.ID) != string(want) {
		return nil, nil, fmt.Errorf("%s %s: the answer's id is %s, want %s", s.method, s.path, said.ID, want)
	}
	switch s.method {
	case list:
		if len(said.Result.Tools) != s.tools || said.Result.Next != nil {
			return nil, nil, fmt.Errorf("%s: %d tools, want %d on one page", s.path, len(said.Result.Tools), s.tools)
		}
	case call:
		var asked struct {
			Params struct {
				Arguments struct {
					Text string `json:"text"`
				} `json:"arguments"`
			} `json:"params"`
		}
		if err := json.Unmarshal(body, &asked); err != nil {
			return nil, nil, err
		}
		if len(said.Result.Content) != 1 || said.Result.Content[0].Text != asked.Params.Arguments.Text {
			return nil, nil, fmt.Errorf("%s: not an echo: %.300q", s.path, answer)
		}
	}
	return answer, resp.Header, nil
}
