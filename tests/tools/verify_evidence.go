// SPDX-License-Identifier: GPL-2.0-or-later

// Reads JSON from stdin: reports and quotes (in base64), certificates of a report, and roots (PEM).
// Prints what go-sev-guest and go-tdx-guest say of each with these roots, and of the first ones with
// the roots that are built in; nothing is good.
package main

import (
	"crypto/x509"
	"encoding/json"
	"os"

	"github.com/google/go-sev-guest/abi"
	sev "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	tdx "github.com/google/go-tdx-guest/verify"
)

type given struct {
	Reports, Quotes   [][]byte
	Certificates      []byte
	SnpRoot, TdxRoot  string
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

func report(one []byte, from given, roots map[string][]*trust.AMDRootCerts) string {
	whole := append(append([]byte{}, one...), from.Certificates...)
	evidence, err := abi.ReportCertsToProto(whole)
	if err != nil {
		return said(err)
	}
	options := sev.DefaultOptions()
	options.DisableCertFetching, options.TrustedRoots = true, roots
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
	root := trust.AMDRootCertsProduct("Genoa")
	require(root.FromKDSCertBytes([]byte(from.SnpRoot)))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(from.TdxRoot))
	var reports, quotes []string
	for _, one := range from.Reports {
		reports = append(reports, report(one, from, map[string][]*trust.AMDRootCerts{"Genoa": {root}}))
	}
	for _, one := range from.Quotes {
		quotes = append(quotes, quote(one, pool))
	}
	require(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"reports": reports, "quotes": quotes,
		"builtInReport": report(from.Reports[0], from, nil), "builtInQuote": quote(from.Quotes[0], nil),
	}))
}
