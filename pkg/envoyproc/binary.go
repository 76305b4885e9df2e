package envoyproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/envoy"
)

// tool is where `make tools` puts the binary, below the repository.
const tool = ".tools/envoy/envoy/_bin/envoy"

// Find returns the path of the Envoy to run: $ENVOY, else .tools/ below the working directory or beside the
// folder of this program, else the first on PATH.
func Find() (string, error) {
	if p := os.Getenv("ENVOY"); p != "" {
		if err := executable(p); err != nil {
			return "", fmt.Errorf("$ENVOY: %w", err)
		}
		return p, nil
	}
	candidates := []string{tool}
	if exe, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(exe), "..", tool))
	}
	for _, p := range candidates {
		if executable(p) == nil {
			return filepath.Abs(p)
		}
	}
	if p, err := exec.LookPath("envoy"); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("no Envoy found: run `make tools`, or name an Envoy %s in $ENVOY", envoy.Version())
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program", path)
	}
	return nil
}

var versionText = regexp.MustCompile(`/(\d+)\.(\d+)\.(\d+)[^/]*/`)

// CheckVersion asks a binary for its version. The configuration is made for one minor release, so another is
// refused; a later patch of it is welcome.
func CheckVersion(ctx context.Context, binary string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", binary, err)
	}
	return checkVersion(binary, string(out), envoy.Version())
}

func checkVersion(binary, out, want string) error {
	m := versionText.FindStringSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s does not say its version: is it Envoy?", binary)
	}
	var have, need [3]int
	for i, v := range m[1:] {
		_, _ = fmt.Sscan(v, &have[i])
	}
	if _, err := fmt.Sscanf(want, "%d.%d.%d", &need[0], &need[1], &need[2]); err != nil {
		return errors.New("envoy/VERSION is not a version")
	}
	if have[0] == need[0] && have[1] == need[1] && have[2] >= need[2] {
		return nil
	}
	return fmt.Errorf("%s is Envoy %s, mcpgw needs %d.%d and at least %s: run `make tools`, or name another in $ENVOY",
		binary, strings.Trim(m[0], "/"), need[0], need[1], want)
}

// Validate asks a binary whether it would start with a configuration; the error holds what Envoy says.
func Validate(ctx context.Context, binary string, config []byte) error {
	dir, err := os.MkdirTemp("", "mcpgw-validate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "envoy.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--mode", "validate", "--disable-hot-restart", "-l", "warning", "-c", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy refuses the configuration: %w: %s", err, strings.Join(strings.Fields(string(out[max(0, len(out)-4096):])), " "))
	}
	return nil
}
