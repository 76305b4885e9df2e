package catalog

import "fmt"

// UnmarshalText reads what MarshalText wrote.
func (k *Kind) UnmarshalText(text []byte) error {
	for _, known := range Kinds {
		if string(text) == known.String() {
			*k = known
			return nil
		}
	}
	return fmt.Errorf("%q is no kind of item", text)
}
