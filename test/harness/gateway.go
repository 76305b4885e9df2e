package harness

import (
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// Gateway is a running `mcpgw run`: the gateway, its Envoy and its stdio servers.
type Gateway struct {
	*Process
	URLs   []string // of the listeners, as the ready line names them
	Config string   // the configuration file
}

// gatewayTimeout is how long a gateway may take from its start to its ready line.
const gatewayTimeout = 60 * time.Second

var urls = regexp.MustCompile(`https?://[^\s,]+`)

// StartGateway writes the configuration and policy (file name to text, below the folder policy/ beside it) into
// a folder of the test's own and runs the gateway on it until the test ends. Listeners should have port 0
// and admin a unix socket, or gateways of two tests meet.
func StartGateway(t testing.TB, config string, policy map[string]string, args ...string) *Gateway {
	t.Helper()
	dir := t.TempDir()
	g := &Gateway{Config: filepath.Join(dir, "mcpgw.yaml")}
	WriteFile(t, g.Config, config)
	for name, text := range policy {
		WriteFile(t, filepath.Join(dir, "policy", name), text)
	}
	g.Process = Start(t, Command{
		Name: "mcpgw run",
		Path: Mcpgw(t),
		Args: append([]string{"run", "--config", g.Config}, args...),
		Env:  []string{"ENVOY=" + Tools(t).Envoy},
		Dir:  dir,
	})
	line := g.Stdout.Await(t, `(?m)^ready .*$`, gatewayTimeout)[0]
	g.URLs = urls.FindAllString(line, -1)
	if len(g.URLs) == 0 {
		t.Fatalf("the ready line names no URL: %q", line)
	}
	return g
}

// Reload replaces the configuration and tells the gateway. What it makes of it shows in its log.
func (g *Gateway) Reload(t testing.TB, config string) {
	t.Helper()
	WriteFile(t, g.Config, config)
	g.Signal(t, syscall.SIGHUP)
}

// WriteFile replaces a file in one step, as an editor or a deployment does: readers see the old text or
// the new, never half of it.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path+".new", []byte(text), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
}

// AwaitItems waits until an endpoint lists tools to a modern client: the catalog is built in the
// background, so a gateway may be ready before it knows its servers.
func AwaitItems(t testing.TB, url, key string) {
	t.Helper()
	client := NewModern(url, key)
	Eventually(t, readyTimeout, url+" lists tools", func() bool {
		return len(client.Call(t, "tools/list", nil).Names(t)) > 0
	})
}
