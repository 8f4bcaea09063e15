package source

import (
	"maps"
	"testing"

	"github.com/sluicenet/sluice/model"
)

// TestServiceLabels proves that of a Service's labels those are kept that somebody
// selects by, and no others.
func TestServiceLabels(t *testing.T) {
	doc := Document{Line: 1, Text: []byte(`
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web, tier: front, service.kubernetes.io/service-proxy-name: other}}
spec: {ports: [{port: 80}]}
`)}
	for _, c := range []struct {
		names []string
		want  map[string]string
	}{
		{nil, map[string]string{serviceProxyName: "other"}},
		{[]string{"tier", "team"}, map[string]string{serviceProxyName: "other", "tier": "front"}},
	} {
		objects, problems := doc.Decode(c.names...)
		if len(objects) != 1 || len(problems) > 0 {
			t.Fatalf("%v, %v", objects, problems)
		}
		if got := objects[0].Value.(*model.Service).Labels; !maps.Equal(got, c.want) {
			t.Errorf("with %v: %v, want %v", c.names, got, c.want)
		}
	}
}
