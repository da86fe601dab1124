// SPDX-License-Identifier: GPL-2.0-or-later

// Reads JSON from stdin: reports and quotes (in base64), certificates of a report, and roots (PEM).
// Prints what go-sev-guest and go-tdx-guest say of each with these roots, and of the first ones with
// the roots that are built in, and of the first report with the list of each service; nothing is good.
package main

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"strings"

	"github.com/google/go-sev-guest/abi"
	sev "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	tdx "github.com/google/go-tdx-guest/verify"
)

type given struct {
	Reports, Quotes   [][]byte
	Certificates      []byte
	SnpRoot, TdxRoot  string
	Services          map[string]string
}

// Fetches from a service of ours what the library asks AMD's for.
type service string

func (at service) Get(url string) ([]byte, error) {
	getter := trust.SimpleHTTPSGetter{}
	return getter.Get(strings.Replace(url, "https://kdsintf.amd.com", string(at), 1))
}

func require(err error) {
	if err != nil {
		panic(err)
	}
}

func said(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func root(from given) map[string][]*trust.AMDRootCerts {
	made := trust.AMDRootCertsProduct("Genoa")
	require(made.FromKDSCertBytes([]byte(from.SnpRoot)))
	return map[string][]*trust.AMDRootCerts{"Genoa": {made}}
}

// With a service, its list of revoked certificates is looked at.
func report(one []byte, from given, roots map[string][]*trust.AMDRootCerts, at service) string {
	whole := append(append([]byte{}, one...), from.Certificates...)
	evidence, err := abi.ReportCertsToProto(whole)
	if err != nil {
		return said(err)
	}
	options := sev.DefaultOptions()
	options.DisableCertFetching, options.TrustedRoots = true, roots
	options.CheckRevocations, options.Getter = at != "", at
	return said(sev.SnpAttestation(evidence, options))
}

func quote(one []byte, roots *x509.CertPool) string {
	options := tdx.DefaultOptions()
	options.TrustedRoots = roots
	return said(tdx.RawTdxQuote(one, options))
}

func main() {
	var from given
	require(json.NewDecoder(os.Stdin).Decode(&from))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(from.TdxRoot))
	var reports, quotes []string
	for _, one := range from.Reports {
		reports = append(reports, report(one, from, root(from), ""))
	}
	for _, one := range from.Quotes {
		quotes = append(quotes, quote(one, pool))
	}
	listed := map[string]string{}
	for scenario, at := range from.Services {
		listed[scenario] = report(from.Reports[0], from, root(from), service(at))
	}
	require(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"reports": reports, "quotes": quotes,
		"builtInReport": report(from.Reports[0], from, nil, ""), "builtInQuote": quote(from.Quotes[0], nil),
		"listed": listed,
	}))
}
