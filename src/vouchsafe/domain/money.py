"""Money as whole minor units of an ISO 4217 currency, and the one way in which it is shared out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Sums of money stay below 2^53, so that every store and language on the way keeps them exact.
MAX_AMOUNT_MINOR = 10**15

BASIS_POINTS = 10_000

# Currencies in use by the number of their digits behind the decimal point (ISO 4217, list one).
_CODES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
    2: """
        AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
        CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD
        HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT
        MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR
        SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU
        UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
    """,
}
EXPONENTS: Mapping[str, int] = {code: digits for digits, codes in _CODES.items() for code in codes.split()}


def format_minor(amount_minor: int, currency_code: str) -> str:
    """An amount for people: "12.50 EUR", "1250 JPY", "1.250 KWD". An unknown currency is shown in minor units."""
    exponent = EXPONENTS.get(currency_code, 0)
    if not exponent:
        return f"{amount_minor} {currency_code}"
    sign = "-" if amount_minor < 0 else ""
    whole, fraction = divmod(abs(amount_minor), 10**exponent)
    return f"{sign}{whole}.{fraction:0{exponent}} {currency_code}"


def part_of(amount_minor: int, basis_points: int) -> int:
    """So many hundredths of a percent of an amount, rounded half up to the minor unit. Neither is negative."""
    return (amount_minor * basis_points + BASIS_POINTS // 2) // BASIS_POINTS


def shares(total_minor: int, weights: Sequence[int], limits: Sequence[int] | None = None) -> list[int]:
    """A total shared out in proportion to weights, one share for each, in the same order.

    The shares add up to the total exactly: what rounding down leaves over goes, a unit each, to the largest remainders,
    among equals to the first (the method of the largest remainder, Hamilton's). While the total is no more than the
    weights together, no share exceeds its weight. Nothing is negative. With limits, a share ends at its limit: what a
    limit cuts off is lost, but no unit of rounding is, while another share has room for it, so that the sum does not
    depend on the order. Raises ZeroDivisionError when all weights are 0.
    """
    whole = sum(weights)
    parts = [total_minor * weight // whole for weight in weights]
    left = total_minor - sum(parts)
    if limits is not None:
        parts = [min(pair) for pair in zip(parts, limits, strict=True)]
    if left:
        remainders = [total_minor * weight % whole for weight in weights]
        for i in sorted(range(len(weights)), key=lambda i: -remainders[i]):
            if not left or not remainders[i]:
                break
            if limits is None or parts[i] < limits[i]:
                parts[i] += 1
                left -= 1
    return parts
