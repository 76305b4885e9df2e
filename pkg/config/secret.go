package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/identity"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// maxSecretBytes bounds a file or variable that holds a value. What is larger
// is no credential, and would not fit into a header.
const maxSecretBytes = 16 << 10

// ReadSecret fetches the secret that s names now; call it again when the file
// has changed. The error names the place, never the content.
func ReadSecret(s *configv1.SecretSource) (identity.Secret, error) {
	switch s := s.GetSource().(type) {
	case *configv1.SecretSource_File:
		return readFile(s.File)
	case *configv1.SecretSource_Env:
		return readEnv(s.Env)
	default:
		return identity.Secret{}, errors.New("no file and no environment variable is named")
	}
}

// ReadValue fetches the text that v gives or names. A value may be a secret, so
// it is treated as one.
func ReadValue(v *configv1.Value) (identity.Secret, error) {
	switch v := v.GetSource().(type) {
	case *configv1.Value_Value:
		return identity.NewSecret(v.Value), nil
	case *configv1.Value_File:
		return readFile(v.File)
	case *configv1.Value_Env:
		return readEnv(v.Env)
	default:
		return identity.Secret{}, errors.New("no value, file or environment variable is named")
	}
}

func readFile(path string) (identity.Secret, error) {
	data, err := readBounded(path, maxSecretBytes)
	if err != nil {
		return identity.Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" {
		return identity.Secret{}, fmt.Errorf("%s: is empty", path)
	}
	return identity.NewSecret(text), nil
}

func readEnv(name string) (identity.Secret, error) {
	switch text := os.Getenv(name); {
	case text == "":
		return identity.Secret{}, fmt.Errorf("the environment variable %s is not set", name)
	case len(text) > maxSecretBytes:
		return identity.Secret{}, fmt.Errorf("the environment variable %s is larger than %d bytes", name, maxSecretBytes)
	default:
		return identity.NewSecret(text), nil
	}
}
