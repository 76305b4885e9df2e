package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BundleCount is how it stands with one bundle that is fetched. Times that have not come are zero.
type BundleCount struct {
	Confirmed, Activated time.Time
	Failures             uint64
}

// bundles asks for the counts at each scrape: there are series only for policies that come as bundles.
type bundles struct {
	counts                         func() map[string]BundleCount
	confirmed, activated, failures *prometheus.Desc
}

func newBundles(counts func() map[string]BundleCount) *bundles {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"policy"}, nil)
	}
	return &bundles{
		counts:    counts,
		confirmed: desc(metricBundleSuccess, "When the bundle in force was last found to be its source's newest."),
		activated: desc(metricBundleActive, "When the bundle in force came into force."),
		failures:  desc(metricBundleFailed, "Looks for a bundle that failed, or brought one that was refused."),
	}
}

// Describe names the series.
func (b *bundles) Describe(c chan<- *prometheus.Desc) {
	c <- b.confirmed
	c <- b.activated
	c <- b.failures
}

// Collect gives them.
func (b *bundles) Collect(c chan<- prometheus.Metric) {
	for name, n := range b.counts() {
		c <- prometheus.MustNewConstMetric(b.failures, prometheus.CounterValue, float64(n.Failures), name)
		for desc, at := range map[*prometheus.Desc]time.Time{b.confirmed: n.Confirmed, b.activated: n.Activated} {
			if !at.IsZero() {
				c <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.UnixMilli())/1e3, name)
			}
		}
	}
}
