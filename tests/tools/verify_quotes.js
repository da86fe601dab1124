// SPDX-License-Identifier: GPL-2.0-or-later
// Reads JSON from stdin: services, root (DER, in hexadecimal) and quotes.  Prints what
// @phala/dcap-qvl says of each quote, with that root and, of the first one, with the vendor's.
const { getCollateral, QuoteVerifier } = require("@phala/dcap-qvl");

async function main() {
    const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const quotes = given.quotes.map((quote) => Buffer.from(quote, "hex"));
    const collateral = await getCollateral(given.services, quotes[0]);
    delete collateral.pck_certificate_chain; // it is to be read from each quote
    const now = Math.floor(Date.now() / 1000) + 1;
    const say = (verifier, quote) => {
        try {
            return verifier.verify(quote, collateral, now).status;
        } catch (error) {
            return `refused: ${error.message}`;
        }
    };
    const ours = QuoteVerifier.newWithRootCa(Buffer.from(given.root, "hex"));
    const said = quotes.map((quote) => say(ours, quote));
    console.log(JSON.stringify({ said, vendor: say(QuoteVerifier.newProd(), quotes[0]) }));
}

main();
