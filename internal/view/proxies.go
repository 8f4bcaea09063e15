package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/xds"
)

// Proxies is the table of connected Envoys: for each type of resource how many
// of those that were sent the proxy has acknowledged, and what it rejected.
func Proxies(proxies []xds.Proxy) admin.Table {
	t := admin.Table{Columns: []admin.Column{
		{Name: "NAME"}, {Name: "VERSION", Wide: true}, {Name: "CONNECTED"}, {Name: "STATE"}, {Name: "ACKNOWLEDGED/SENT"},
		{Name: "REJECTED"}, {Name: "LAST-ERROR", Wide: true},
	}}
	for _, p := range proxies {
		var acked, rejected, last []string
		state := "Current"
		for _, r := range p.Types {
			acked = append(acked, fmt.Sprintf("%s %d/%d", r.Type, r.Acknowledged, r.Sent))
			if r.Acknowledged < r.Sent && state == "Current" {
				state = "Behind"
			}
			if r.Rejected+r.Held > 0 {
				state = "Rejecting"
				rejected = append(rejected, fmt.Sprintf("%s %d", r.Type, r.Rejected+r.Held))
			}
			if r.LastError != "" {
				last = append(last, r.LastError)
			}
		}
		t.Rows = append(t.Rows, admin.Row{
			Name: p.Node,
			Cells: []string{
				p.Node, p.Version, time.Since(p.Connected).Round(time.Second).String(), state,
				strings.Join(acked, ", "), strings.Join(rejected, ", "), strings.Join(last, "; "),
			},
			Object: p,
		})
	}
	return t
}
