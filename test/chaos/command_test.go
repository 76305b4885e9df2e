package chaos

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

// command runs mcpgw to its end.
func command(t testing.TB, dir string, args ...string) result {
	t.Helper()
	return commandWith(t, dir, []string{"ENVOY=" + harness.Tools(t).Envoy}, args...)
}

func commandWith(t testing.TB, dir string, env []string, args ...string) result {
	t.Helper()
	c := exec.CommandContext(t.Context(), harness.Mcpgw(t), args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("mcpgw %v: %v", args, err)
	}
	return result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}
