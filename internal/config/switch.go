package config

import "encoding/json"

// Switch is "on", "off", or another word. YAML takes the two for booleans unless they
// are quoted, so it reads these, too.
type Switch string

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Switch) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "true":
		*s = "on"
	case "false":
		*s = "off"
	default:
		return json.Unmarshal(b, (*string)(s))
	}
	return nil
}
