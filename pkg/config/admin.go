package config

import (
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// AdminAddress is where a gateway that runs with the file at path answers its operator, as far as the
// file can be read, else the default: whoever asks a gateway what is wrong with its file must not need a
// right one.
func AdminAddress(path string) (Address, error) {
	var c struct {
		Admin struct{ Address string }
	}
	if data, err := readBounded(path, MaxBytes); err == nil {
		_ = yaml.Unmarshal(data, &c) // what cannot be read leaves the default
	}
	or(&c.Admin.Address, defaultAdmin)
	a, err := ParseAddress(c.Admin.Address)
	if err != nil {
		return a, err
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return a, err
	}
	return a.in(filepath.Dir(absolute))
}
